"""A launched run: any layout, any number of kills, the same curve and the same loss."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from safetensors.torch import load_file

from scalelab.errors import LaunchError
from scalelab.hardware.layout import Layout, parse_layout
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.executors.forkserver import fork_server
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.record import write_record
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.launch.final_run import PARALLEL_TRAINING
from scalelab.launch.job_settings import FinalSettings
from scalelab.sealed import Checksum, file_digest
from scalelab.train.checkpoints.sharded import META, step_of
from scalelab.train.checkpoints.unsharded import parse_file
from scalelab.train.engines.layout_checks import refuse_layout
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir

CONFIG = LaunchConfig(heartbeat_timeout_s=60, retries=2)
SHORT = 20
"""Steps that show whether two layouts agree."""
LAYOUTS = [
    Layout(replicate=2),
    Layout(shard=2),
    Layout(tensor=2),
    Layout(pipeline=2, micro_batches=2),
    Layout(shard=2, micro_batches=2, recompute=True),
    Layout(replicate=2, shard=2),
    Layout(replicate=2, tensor=2),
    Layout(replicate=2, pipeline=2, micro_batches=2),
    Layout(tensor=2, pipeline=2, micro_batches=2),
]


@pytest.fixture(scope="module", autouse=True)
def server():
    """A fork server as `scalelab launch` has it for many processes, whoever was here before."""
    for leftover in multiprocessing.active_children():
        leftover.kill()
        leftover.join()
    forkserver._forkserver._stop()
    fork_server(("scalelab.jobs.worker", *PARALLEL_TRAINING))


@pytest.fixture
def run(tmp_path, tiny_spec):
    """A function that makes a run directory ready to train."""

    def make(where, **changes):
        spec = tiny_spec(**changes)
        run_dir = RunDir(tmp_path / where / spec.id)
        run_dir.create(spec)
        return run_dir

    return make


class View(LiveView):
    """A live view that calls a function of the test's at every turn of the driver."""

    def __init__(self, do):
        super().__init__(JobLabels())
        self.do = do

    def tick(self):
        super().tick()
        self.do()


def job_of(run_dir, layout, config=CONFIG):
    resources, settings = (JobResources(layout.devices, 1), FinalSettings.of(layout, config).to_json())
    return Job(run_dir.run, run_dir, "final", resources=resources, settings=settings)


def launched(run_dir, layout, tick=lambda: None, config=CONFIG):
    """How the run ended."""
    executor = LocalConfig().start(PARALLEL_TRAINING)
    try:
        with View(tick) as view:
            source = JobList([job_of(run_dir, layout, config)])
            return drive(source, executor, view, config.limits).ended[run_dir.run]
    finally:
        executor.close()


def launch(run_dir, layout, tick=lambda: None, config=CONFIG):
    ended = launched(run_dir, layout, tick, config)
    assert ended.outcome in {"done", "interrupted"}, ended
    return run_dir.result()


def events(run_dir, kind):
    return [event for event in run_dir.events() if event["event"] == kind]


def test_one_launched_process_is_the_sweeps_own_run_to_the_last_bit(run):
    alone = train(run("sweep"))
    result = launch(run("launched"), Layout())

    assert result.loss == alone.loss
    assert result.train_curve == alone.train_curve
    assert result.curve == alone.curve
    assert result.layout == Layout().to_json()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The curve of one process, made once for all layouts."""
    return {}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_gives_the_curve_of_one_process(run, straight, layout):
    if not straight:
        run_dir = run("one", n_steps=SHORT)
        straight["result"] = train(run_dir)
        straight["weights"] = load_file(run_dir.weights_path)
    alone = straight["result"]
    run_dir = run("many", n_steps=SHORT)
    result = launch(run_dir, layout)

    assert [p[:2] for p in result.train_curve] == [p[:2] for p in alone.train_curve]
    ours, theirs = ([p[2] for p in r.train_curve] for r in (result, alone))
    assert ours == pytest.approx(theirs, rel=2e-4)
    assert [p[2] for p in result.curve] == pytest.approx([p[2] for p in alone.curve], rel=2e-4)
    assert result.loss == pytest.approx(alone.loss, rel=2e-4)
    assert result.loss_se == pytest.approx(alone.loss_se, rel=1e-2)
    weights = load_file(run_dir.weights_path)
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in straight["weights"].items()}
    assert result.n_tokens == alone.n_tokens
    assert result.flops == alone.flops


FREQUENT = LaunchConfig(heartbeat_timeout_s=60, retries=10, checkpoint_s=0.02)


class Killer:
    """Ends one process of a run, so many times: each soon after it has come further.

    Every third time it does not wait for that, and meets the run wherever it is.
    """

    def __init__(self, run_dir, kills, seed):
        self.run_dir, self.kills, self.done = run_dir, kills, 0
        self.random = random.Random(seed)
        self.reached = 0

    def __call__(self):
        if self.done == self.kills or len(events(self.run_dir, "start")) <= self.done:
            return
        saved = max((e["step"] for e in events(self.run_dir, "checkpoint")), default=0)
        if saved <= self.reached and self.done % 3 != 2:
            return
        time.sleep(self.random.uniform(0.0, 0.05))
        if not (alive := children()):
            return  # between two tries: it is killed once it is there again
        os.kill(self.random.choice(alive), signal.SIGKILL)
        self.done, self.reached = self.done + 1, saved
        time.sleep(0.1)


def children():
    """Processes of the launched run that is going on: children of the fork server."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            grandparent = parent_of(parent_of(int(process.name)))
        except (OSError, IndexError):
            continue  # it has just ended
        if "forkserver" in command and grandparent == os.getpid():
            found.append(int(process.name))
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[1])


@pytest.fixture(scope="module")
def cached():
    """What one test has made and others compare with or begin from."""
    return {}


@pytest.fixture
def straight_of_two(cached, run):
    """What two processes come to in 160 steps without a break."""
    if "straight" not in cached:
        cached["straight"] = launch(run("straight", n_steps=160), Layout(shard=2))
    return cached["straight"]


@pytest.fixture
def stopped(cached, tmp_path, tmp_path_factory, tiny_spec):
    """A function that returns a copy of a run of 160 steps whose two processes were stopped past each of some steps."""

    def copied(run_dir, folder):
        return RunDir(shutil.copytree(run_dir.path, folder / run_dir.path.name))

    def original(steps):
        if steps not in cached:
            folder = tmp_path_factory.mktemp("stopped")
            if len(steps) > 1:
                run_dir = copied(original(steps[:-1]), folder)
            else:
                spec = tiny_spec(n_steps=160)
                run_dir = RunDir(folder / spec.id)
                run_dir.create(spec)
            interrupt(run_dir, Layout(shard=2), steps[-1])
            cached[steps] = run_dir
        return cached[steps]

    return lambda *steps: copied(original(steps), tmp_path)


def test_killed_ten_times_under_two_processes_it_ends_with_the_same_loss(run, straight_of_two):
    run_dir = run("killed", n_steps=160)
    killer = Killer(run_dir, 10, seed=0)
    result = launch(run_dir, Layout(shard=2), killer, FREQUENT)

    assert killer.done == 10
    assert len(events(run_dir, "lost")) == 10
    assert len(events(run_dir, "start")) == 11
    resumed = [event["step"] for event in events(run_dir, "resume")]
    assert len(set(resumed)) > 5
    assert max(resumed) > 10
    assert result.loss == straight_of_two.loss
    assert result.train_curve == straight_of_two.train_curve
    assert not run_dir.checkpoints.exists()


@pytest.fixture(scope="module")
def never_moved():
    """What an undisturbed run of 160 steps comes to, trained once for all tests."""
    return {}


def undisturbed(run, never_moved):
    if not never_moved:
        never_moved["result"] = train(run("alone", n_steps=160))
    return never_moved["result"]


@pytest.mark.parametrize(
    "later", [Layout(), Layout(tensor=2), Layout(replicate=2, pipeline=2, micro_batches=2)], ids=str
)
def test_it_goes_on_under_another_layout(run, never_moved, stopped, later):
    alone = undisturbed(run, never_moved)
    run_dir = stopped(30)
    result = launch(run_dir, later)

    assert events(run_dir, "resume")[-1]["step"] >= 30
    assert result.layout == later.to_json()
    assert result.n_resumes == 1
    assert result.loss == pytest.approx(alone.loss, rel=2e-3)
    assert [p[2] for p in result.train_curve] == pytest.approx([p[2] for p in alone.train_curve], rel=2e-3)


def interrupt(run_dir, layout, step):
    """Launch a run and stop it gently once it has come past a step."""
    told = []

    def tick():
        if any(e["step"] >= step for e in events(run_dir, "step")) and not told:
            told.append(True)
            signal.raise_signal(signal.SIGINT)

    ended = launched(run_dir, layout, tick)
    assert ended.outcome == "interrupted", ended


@pytest.mark.parametrize(("harm", "later"), [("alter", Layout(shard=2)), ("lose", Layout())])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, never_moved, stopped, harm, later):
    """Of two processes the second one finds the damage, and both use the other checkpoint."""
    alone = undisturbed(run, never_moved)
    run_dir = stopped(30, 60)
    before, newest = sorted(run_dir.checkpoints.iterdir())
    file = newest / "__1_0.distcp"
    data = file.read_bytes()
    if harm == "alter":
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        file.unlink()
    result = launch(run_dir, later)

    assert events(run_dir, "checkpoint_passed_over")[0]["reason"].startswith(f"{newest.name}: {file.name}")
    assert events(run_dir, "resume")[-1]["step"] == step_of(before)
    assert result.loss == pytest.approx(alone.loss, rel=2e-3)


def test_every_process_s_file_is_under_a_digest_and_none_holds_a_pickled_index(stopped):
    places = list(stopped(30).checkpoints.iterdir())

    assert places
    for place in places:
        files = {file.name: file_digest(file, Checksum) for file in place.iterdir()}
        del files["meta.json"]
        assert files.keys() == {"__0_0.distcp", "__1_0.distcp", "metadata.json"}
        assert parse_file(META, place / "meta.json").files == files


def test_a_checkpoint_of_another_run_is_refused_in_every_process(run, stopped):
    mine, other = run("mine", n_steps=160, seed=1), stopped(30)
    other.checkpoints.rename(mine.checkpoints)

    with pytest.raises(LaunchError, match=f"belongs to run {other.run}, not to {mine.run}"):
        launch(mine, Layout(shard=2))


def test_torchrun_starts_the_same_processes(run):
    alone = train(run("alone", n_steps=SHORT))
    run_dir = run("torchrun", n_steps=SHORT)
    write_record(job_of(run_dir, Layout(shard=2)))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--max-restarts",
            "0",
            "-m",
            "scalelab.jobs.worker",
            str(run_dir.path),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    assert run_dir.result().loss == pytest.approx(alone.loss, rel=2e-4)


def test_a_process_that_hangs_is_ended_with_every_stack_and_the_run_goes_on(run, straight_of_two):
    run_dir = run("hung", n_steps=160)
    suspended = []

    def hang():
        if not suspended and len(events(run_dir, "step")) > 10 and (there := children()):
            suspended.append(there[0])
            os.kill(suspended[0], signal.SIGSTOP)

    # On a busy machine processes that are well may be silent for so long too, and are ended and started again.
    patient = LaunchConfig(heartbeat_timeout_s=3, retries=20, checkpoint_s=0.2)
    result = launch(run_dir, Layout(shard=2), hang, patient)

    assert suspended
    lost = events(run_dir, "lost")[0]
    assert lost["outcome"] == "stalled"
    assert "no step for too long" in lost["reason"] or "logged nothing" in lost["reason"]
    assert result.loss == straight_of_two.loss


def test_a_layout_that_cannot_carry_the_run_is_refused_by_its_numbers(run):
    spec = run("refused").spec()
    for layout, words in (
        (Layout(replicate=3), "8 windows does not divide into 3 processes"),
        (Layout(shard=32, micro_batches=1), "does not divide"),
        (Layout(tensor=4), "2 key-value heads"),
        (Layout(pipeline=3), "2 layers do not fill 3"),
        (Layout(pipeline=2), "1 micro-batches do not fill 2 pipeline stages"),
        (Layout(context=2), "planned for, and not launched"),
    ):
        with pytest.raises(LaunchError, match=words) as refusal:
            refuse_layout(layout, spec)
        assert "fix:" in str(refusal.value)


@pytest.mark.parametrize(
    ("asked", "layout", "words"),
    [
        (
            {"cross_entropy": "chunked"},
            Layout(tensor=2),
            "cross_entropy is chunked, and the vocabulary is cut",
        ),
        (
            {"cross_entropy": "chunked"},
            Layout(pipeline=2, micro_batches=2),
            "cross_entropy is chunked, and pipeline stages give plain logits",
        ),
        ({"cuda_graphs": "on"}, Layout(shard=2), "cuda_graphs is on, and 2 processes share the run"),
        ({"matmul": "fp8"}, Layout(replicate=2), "matmul is fp8, and 2 processes share the run"),
    ],
)
def test_a_setting_that_a_layout_cannot_follow_is_refused_by_its_name(run, asked, layout, words):
    spec = run("refused").spec()
    refuse_layout(layout, spec)
    with pytest.raises(LaunchError, match=words) as refusal:
        refuse_layout(layout, spec.model_copy(update=asked))
    (field,) = asked
    assert f"`{field}: {type(spec).model_fields[field].default}`" in refusal.value.fix
    refuse_layout(Layout(), spec.model_copy(update=asked))


def test_too_few_gpus_are_refused(run, monkeypatch):
    gpu = {"kind": "cuda", "name": "a GPU", "memory_bytes": 1 << 30, "auto": "bf16"}
    monkeypatch.setattr("scalelab.jobs.executors.local.devices_here", lambda context: [gpu])
    with pytest.raises(LaunchError, match="asks for 2 GPUs, 1 are here"):
        launch(run("gpus"), Layout(shard=2))


@pytest.mark.parametrize("text", ["recompute=0", "offload=false", "recompute=2", "tensor=", "rows=2"])
def test_a_layout_that_cannot_be_read_is_refused(text):
    with pytest.raises(LaunchError, match="cannot read"):
        parse_layout(text, Layout())


def test_flags_of_a_layout_need_no_value():
    assert parse_layout("recompute,tensor=2", Layout()) == Layout(tensor=2, recompute=True)
    assert parse_layout("recompute=1", Layout()).recompute
