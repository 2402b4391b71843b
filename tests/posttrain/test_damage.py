"""What is read back is what was written: anything else is refused in three lines, or done again."""

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import RunError, ScalelabError
from scalelab.evals.checkpoint import DESCRIPTION, MODEL, Checkpoint
from scalelab.evals.conversations.skill_conversations import SkillConversations
from scalelab.evals.reward_model import RewardModel
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.jobs.limits import Limits
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.leases import LeaseTaken, claim
from scalelab.posttrain import heldout_eval, loop, pipeline
from scalelab.posttrain.base import StageContext, StageDir
from scalelab.posttrain.jobs import jobs_of
from scalelab.posttrain.pairs import load_pairs
from scalelab.posttrain.pipeline import PosttrainFile, StageSpec, check_inputs, plan_stages, read_spec
from scalelab.posttrain.stages.sft import SftJob
from scalelab.posttrain.worker import run_claimed_stage
from scalelab.report.posttrain.results import _answers
from scalelab.train.run_directory import RunDir

UNSEALED = Path(__file__).parents[1] / "fixtures" / "unsealed" / "sweeps" / "taught"
PAIRS = {
    "kind": "preferences",
    "name": "pairs",
    "first": "sft",
    "judge": "gold",
    "prompts": 60,
    "batch": 20,
    "n_new": 8,
}
REWARD = {
    "kind": "reward",
    "name": "rm",
    "start": "sft",
    "pairs": "pairs",
    "batch": 16,
    "rates": {"lr": 1e-2},
}
GRADE = {"kind": "grade", "name": "grade.sft", "model": "sft", "prompts": 2, "retention_tokens": 0}


@pytest.fixture(scope="module", autouse=True)
def few_looks():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(heldout_eval, "QUICK", 2)
        yield


@pytest.fixture(scope="module")
def finished(done, sft, few_looks):
    """Stages of four kinds, done; tests work on a copy."""
    return done(sft(examples=8, batch=4), PAIRS, REWARD, GRADE)


@pytest.fixture
def stages(finished, tmp_path):
    """A copy of them, by name: directories that tests may damage."""
    made = {}
    for name, stage in finished.items():
        shutil.copytree(stage.dir.path, tmp_path / stage.dir.path.name)
        made[name] = StageDir(RunDir(tmp_path / stage.dir.path.name))
    return made


def pairs_read(stages):
    """The pairs as the stage that learns from them reads them."""
    stages["pairs"].check_outputs()
    given = StageContext(
        None, SkillConversations(), 0, {n: s.path for n, s in stages.items()}, stages["rm"].path
    )
    return load_pairs(given, "pairs", given.model("sft"), None).counts()


READERS = {
    ("sft", "result.json"): lambda stages: stages["sft"].result(),
    ("sft", "spec.yaml"): lambda stages: read_spec(stages["sft"]),
    ("sft", "model.json"): lambda stages: Checkpoint.load(stages["sft"].path).digest,
    ("sft", "model.safetensors"): lambda stages: Checkpoint.load(stages["sft"].path).digest,
    ("sft", "tokenizer.json"): lambda stages: Checkpoint.load(stages["sft"].path).digest,
    ("rm", "reward.json"): lambda stages: RewardModel.load(stages["rm"].path).seq_len,
    ("rm", "reward.safetensors"): lambda stages: RewardModel.load(stages["rm"].path).seq_len,
    ("rm", "tokenizer.json"): lambda stages: RewardModel.load(stages["rm"].path).seq_len,
    ("pairs", "pairs.jsonl"): pairs_read,
    ("grade.sft", "answers.jsonl"): lambda stages: _answers(stages["grade.sft"]),
}
"""Who reads each kind of file."""


def damages(data):
    """Every kind of damage to the bytes of a file, named."""
    for share in (0.01, 0.2, 0.4, 0.6, 0.8, 0.95):
        at = int(share * len(data))
        yield f"bit {at}", data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    for at in digits[:: max(1, len(digits) // 4)]:
        other = b"%d" % ((data[at] - 48 + 1) % 10)
        yield f"digit {at}", data[:at] + other + data[at + 1 :]
    yield "cut", data[: len(data) // 2]
    yield "two bytes short", data[:-2]
    yield "empty", b""
    yield "null", b"null\n"
    yield "missing", None


@pytest.mark.parametrize("which", READERS, ids="/".join)
def test_damage_is_refused_in_three_lines(stages, which):
    path, read = stages[which[0]].path / which[1], READERS[which]
    before, data = read(stages), path.read_bytes()
    for name, damaged in damages(data):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        if (which[1], name) == ("result.json", "missing"):
            assert read(stages) is None  # it is done again
        else:
            with pytest.raises(ScalelabError) as refused:
                read(stages)
            problem, where, *_, fix = str(refused.value).splitlines()
            assert problem, name
            assert where.startswith("  where: "), name
            assert str(path.parent if damaged is None else path) in where, name
            assert fix.startswith("  fix: "), name
    path.write_bytes(data)
    assert read(stages) == before


def test_what_a_stage_leaves_is_named_with_its_digest(stages):
    left = {name: set(stage.result().files) for name, stage in stages.items()}

    assert left == {
        "sft": {"model.json", "model.safetensors", "tokenizer.json"},
        "pairs": {"pairs.jsonl"},
        "rm": {"reward.json", "reward.safetensors", "tokenizer.json"},
        "grade.sft": {"answers.jsonl"},
    }


def test_weights_of_another_model_with_its_own_seal_are_no_input(finished, stages, base, tmp_path):
    """The seals of a model hold wherever its files lie: the stage's result says whose they are."""
    spec = _moved(finished["rm"].spec, stages)
    check_inputs(spec)
    for name in ("model.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(base / name, stages["sft"].path / name)
    assert Checkpoint.load(stages["sft"].path).chat is None

    with pytest.raises(RunError, match=r"model\.\w+ cannot be used: .* its SHA-256") as refused:
        check_inputs(spec)

    assert str(stages["sft"].path) in refused.value.where


def test_another_stage_than_was_planned_is_no_input(finished, stages):
    spec = _moved(finished["rm"].spec, stages)
    other = stages["sft"].path.with_name("sft-" + "0" * 12)
    stages["sft"].path.rename(other)
    result = json.loads((other / "result.json").read_text())
    moved = _moved(spec, {"sft": StageDir(RunDir(other))})

    with pytest.raises(RunError, match=f"that of stage sft-{result['id']}, not of sft-000"):
        check_inputs(moved)
    with pytest.raises(RunError, match=f"spec.yaml describes stage sft-{result['id']}"):
        read_spec(StageDir(RunDir(other)))
    with pytest.raises(RunError, match="the stage 'sft' has no finished result"):
        check_inputs(spec)


def test_another_base_than_was_planned_is_no_input(finished, base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "base")
    spec = finished["sft"].spec
    moved = {"base": pipeline.InputSource(path=str(copy), id=spec.given["base"].id)}
    spec = spec.model_copy(update={"given": moved})
    check_inputs(spec)
    record = MODEL.read(copy / DESCRIPTION)
    MODEL.write(copy / DESCRIPTION, replace(record, seq_len=64))

    with pytest.raises(RunError, match="the input 'base' of stage sft has changed") as refused:
        check_inputs(spec)

    assert refused.value.where == str(copy)
    assert "run the same command again" in refused.value.fix


def _moved(spec, stages):
    """A spec whose inputs lie elsewhere."""
    given = {
        name: source.model_copy(update={"path": str(stages[name].path)}) if name in stages else source
        for name, source in spec.given.items()
    }
    return spec.model_copy(update={"given": given})


@pytest.mark.parametrize("name", ["model.json", "reward.json"])
def test_descriptions_from_before_the_seals_are_read(stages, name):
    stage, load = {"model.json": ("sft", Checkpoint.load), "reward.json": ("rm", RewardModel.load)}[name]
    path = stages[stage].path / name
    record = json.loads(path.read_text())
    old = {k: v for k, v in record.items() if k not in {"files", "seal"}} | {"schema": 1}
    path.write_text(json.dumps(old, indent=1))
    assert load(path.parent).seq_len == 128

    wider = old["architecture"] | {"d_model": 9_000_000, "n_layers": 9}
    for damaged, problem in (
        (old | {"architecture": wider}, "the weights do not fit the model: the file holds"),
        (old | {"architecture": {}}, "its architecture is invalid"),
        ({"schema": 1}, "it has no architecture"),
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(RunError, match=problem) as refused:
            load(path.parent)
        assert len(str(refused.value).splitlines()) == 3


def test_tensors_that_do_not_fit_are_refused(stages):
    from safetensors.torch import load_file, save_file

    directory = stages["sft"].path
    record = MODEL.read(directory / DESCRIPTION)
    MODEL.write(directory / DESCRIPTION, replace(record, files={}))  # or the digest would tell
    path = directory / "model.safetensors"
    tensors = load_file(path)
    name = "blocks.0.out"
    renamed = {n.replace(name, "blocks.0.in"): t for n, t in tensors.items()}
    reshaped = tensors | {name: tensors[name].reshape(-1)}
    smaller = tensors | {name: tensors[name][:1]}
    for damaged in (renamed, reshaped, smaller):
        save_file({n: t.contiguous() for n, t in damaged.items()}, path)
        with pytest.raises(RunError, match="the weights do not fit the model") as refused:
            Checkpoint.load(directory)
        assert len(str(refused.value).splitlines()) == 3


def test_a_batch_of_pairs_that_was_damaged_is_collected_again(finished, done, sft, tmp_path):
    place = tmp_path / finished["sft"].dir.path.parent.name
    shutil.copytree(finished["sft"].dir.path.parent, place)
    shutil.rmtree(place / finished["pairs"].dir.path.name)
    asked = iter([False, True])

    def two_steps():
        return next(asked, True)

    two = (sft(examples=8, batch=4), PAIRS)
    stage = done(*two, root=tmp_path, stop=two_steps)["pairs"]
    assert stage.dir.result() is None
    path = stage.dir.path / "pairs.jsonl"
    assert len(path.read_text().splitlines()) == 40
    path.write_text(path.read_text().replace('"of":20', '"of":21', 1)[:-3])

    stage = done(*two, root=tmp_path)["pairs"]

    assert path.read_bytes() == (finished["pairs"].dir.path / "pairs.jsonl").read_bytes()
    assert stage.dir.result().metrics["comparisons"] == 60
    events = [e for e in stage.dir.run_dir.events() if e["event"] == "lines_skipped"]
    assert [(e["file"], e["n"]) for e in events] == [("pairs.jsonl", 1)]


# Whose directory it is.


@pytest.fixture
def begun(base, sft, tmp_path):
    """A planned stage with its spec on disk that no process runs."""
    file = PosttrainFile.model_validate(
        {"name": "t", "base": "given", "data": "skills", "grades": None, "stages": [sft(examples=8, batch=4)]}
    )
    planned = plan_stages(file, base, tmp_path)
    pipeline.write_manifest(file, planned, {}, tmp_path)
    return planned[0]


def drive_here(stages):
    """How the stages ended, done in this process."""
    jobs, limits = jobs_of(stages), Limits(stop_on_refusal=False)
    with LiveView(JobLabels()) as view:
        return drive(JobList(jobs), InlineExecutor(), view, limits).ended


def test_a_stage_that_another_process_holds_is_waited_for(begun):
    lease = claim(begun.dir.path)
    threading.Timer(0.5, lease.release).start()

    ended = drive_here([begun])

    assert ended["sft"].outcome == "done"
    (start,) = (e for e in begun.dir.run_dir.events() if e["event"] == "start")
    assert start["pid"] == os.getpid()


def take_over(stage_dir):
    """Claim the directory of a stage, as another machine that hears no heartbeat would."""
    (stage_dir.path / "lease-000002.json").write_text("")


def test_a_stage_that_was_taken_over_writes_nothing_more(begun):
    asked = []

    def taken_over_before_the_second_step():
        asked.append(1)
        if len(asked) == 2:
            take_over(begun.dir)
        return False

    with pytest.raises(LeaseTaken):
        run_claimed_stage(begun.dir, taken_over_before_the_second_step)

    assert len(asked) == 2
    assert not list(begun.dir.path.glob("*.safetensors"))


@pytest.mark.parametrize(("owner", "name"), [(loop._StageLoop, "_evaluate"), (SftJob, "finish")])
def test_a_stage_that_was_taken_over_behind_its_last_step_leaves_no_result(begun, monkeypatch, owner, name):
    before = getattr(owner, name)

    def then_taken_over(self, *words):
        done = before(self, *words)
        if name == "finish" or self.progress.step == self.job.n_steps:
            take_over(begun.dir)
        return done

    monkeypatch.setattr(owner, name, then_taken_over)
    with pytest.raises(LeaseTaken):
        run_claimed_stage(begun.dir, lambda: False)

    left = {path.name for path in begun.dir.path.iterdir()}
    assert "result.json" not in left
    assert ("model.safetensors" in left) == (name == "finish")


def test_a_damaged_result_takes_only_what_needs_it(begun):
    begun.dir.run_dir.result_path.write_text("null")

    ended = drive_here([begun])["sft"]

    assert ended.outcome == "refused"
    assert "result.json cannot be read" in ended.reason
    assert ended.where == str(begun.dir.run_dir.result_path)
    assert "delete it" in ended.fix


# Ids.


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """A post-training from before ID_SCHEMA 2 on the disk: its file, its base, its root."""
    shutil.copytree(UNSEALED, tmp_path / "taught")
    manifest = json.loads((UNSEALED / "posttrain.json").read_text())
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").touch()
    sft = next(UNSEALED.glob("sft-*/spec.yaml"))
    known = parse_yaml(sft.read_text(), "spec.yaml").data["given"]["base"]["id"]
    monkeypatch.setattr(pipeline, "contents", lambda path: known)
    file = PosttrainFile.parse(parse_yaml(manifest["config_yaml"], "posttrain.json"))
    return file, base, tmp_path, manifest


def test_stages_from_before_the_second_schema_are_found(taught):
    file, base, root, manifest = taught

    planned = plan_stages(file, base, root)

    assert [str(p.dir.path.relative_to(root)) for p in planned] == [
        stage["dir"] for stage in manifest["stages"]
    ]
    for p in planned:
        assert p.dir.result().status == "finished"
        assert read_spec(p.dir).legacy_id == p.id
    pipeline.write_manifest(file, planned, {}, root)  # with seals now, under the same names
    assert all(read_spec(p.dir).legacy_id == p.id for p in planned)


def test_a_stage_that_runs_again_has_an_id_of_the_second_schema(taught):
    file, base, root, _ = taught
    old = {p.name: p for p in plan_stages(file, base, root)}
    shutil.rmtree(old["judge"].dir.path)
    old["dpo"].dir.run_dir.result_path.unlink()  # begun: it can go on
    old["ppo"].dir.run_dir.result_path.unlink()  # begun, but what it needs is done anew

    now = {p.name: p for p in plan_stages(file, base, root)}

    changed = {name for name in now if now[name].id != old[name].id}
    assert changed == {"judge", "ppo"}
    assert now["judge"].id == now["judge"].spec.id
    assert now["ppo"].spec.given["judge"].id == now["judge"].id
    assert now["ppo"].spec.given["sft"].id == old["sft"].id


def test_an_id_covers_what_differs_from_the_defaults(finished):
    spec = finished["rm"].spec
    spelled = StageSpec.model_validate(spec.model_dump())
    twice = spec.stage.model_copy(update={"epochs": 2.0})

    assert spec.id == spelled.id == finished["rm"].id
    assert spec.model_copy(update={"stage": twice}).id != spec.id
    assert spec.model_copy(update={"format": 2}).id != spec.id


def test_where_a_file_lies_decides_nothing_and_what_it_holds_does(base, tmp_path, sft):
    def planned(path, text):
        path.write_text(text)
        dpo = {"kind": "dpo", "name": "dpo", "start": "sft", "pairs": str(path), "rates": {"lr": 1e-3}}
        file = {"name": "t", "base": "b", "data": "skills", "grades": None, "stages": [sft(), dpo]}
        return plan_stages(PosttrainFile.model_validate(file), base, tmp_path / "runs")[1].id

    here = planned(tmp_path / "a.jsonl", "1")
    assert here == planned(tmp_path / "b.jsonl", "1")
    assert here != planned(tmp_path / "a.jsonl", "2")
