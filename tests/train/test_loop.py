"""One run: it learns, it stops and goes on to the same last bit, and it says how it ended."""

import json
import math
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from scalelab.errors import DataError, RunError
from scalelab.hardware.device import OutOfMemory
from scalelab.model.transformer.network import TransformerNet
from scalelab.train import loop
from scalelab.train.checkpoints import unsharded
from scalelab.train.loop import train


@pytest.fixture
def run(tmp_path, tiny_run):
    """A function that makes a run directory ready to train."""
    return lambda where="runs", **changes: tiny_run(tmp_path / where, **changes)


def after(n):
    """A stop signal that comes after n steps."""
    left = [n]

    def stop():
        left[0] -= 1
        return left[0] <= 0

    return stop


def events(run_dir, kind):
    return [event for event in run_dir.events() if event["event"] == kind]


def test_a_run_learns_and_writes_down_what_it_came_to(run, tiny_corpus):
    run_dir = run(n_steps=120)
    result = train(run_dir)

    assert result.status == "finished"
    assert result.loss < 0.75 * math.log(257)
    assert result.bpb == pytest.approx(result.loss / math.log(2) / tiny_corpus.bytes_per_token)
    assert result.n_tokens == result.n_tokens_planned == 120 * 256
    assert result.flops == result.flops_per_token * result.n_tokens
    assert result.flops_6nd == 6 * result.n_params_total * result.n_tokens
    assert result.mfu is None  # no CPU has a peak that we know
    assert [point[0] for point in result.curve] == [40, 80]
    assert result.train_curve[0][2] > result.train_curve[-1][2]
    assert json.loads(run_dir.result_path.read_text())["loss"] == result.loss
    assert run_dir.result() == result
    assert not run_dir.checkpoints.exists()
    assert run_dir.weights_path.exists()


def test_a_run_that_is_done_is_not_trained_again(run, monkeypatch):
    run_dir = run(n_steps=20)
    first = train(run_dir)
    monkeypatch.setattr(loop, "_Run", None)

    assert train(run_dir) == first


EXPERTS = {"kind": "moe", "d_ff": 16, "n_experts": 4, "top_k": 2, "n_shared": 1, "z_weight": 1e-3}


@pytest.mark.parametrize(
    ("precision", "model"), [("fp32", {}), ("bf16", {}), ("fp32", EXPERTS)], ids=["fp32", "bf16", "experts"]
)
def test_going_on_gives_the_same_last_bit(run, precision, model):
    straight = train(run("a", precision=precision, model=model))
    halted = run("b", precision=precision, model=model)

    for n in (1, 13, 25):
        assert train(halted, after(n)) is None
    result = train(halted)

    assert result.loss == straight.loss
    assert result.curve == straight.curve
    assert result.train_curve == straight.train_curve
    assert result.n_resumes == 3
    weights = [d.weights_path.read_bytes() for d in (run("a", precision=precision, model=model), halted)]
    assert weights[0] == weights[1]
    if model:  # the bias that balances the load has moved, and is the same too
        bias = load_file(halted.weights_path)["blocks.0.load_bias"]
        assert bias.any()
        size = halted.spec().model.size(32)
        assert (
            result.flops_6nd
            == 6 * size.n_params_active * result.n_tokens
            < 6 * size.n_params_total * result.n_tokens
        )


@pytest.mark.parametrize("background", [False, True])
def test_killed_and_run_again_gives_the_same_last_bit(run, background):
    straight = train(run("a", n_steps=400))
    killed = run("b", n_steps=400)
    program = (
        "import sys, torch, scalelab.train.checkpoints.unsharded as c; torch.set_num_threads(1)\n"
        "import scalelab.train.loop as loop\n"
        "c.seconds_until_next = lambda s: 0.05\n"
        f"loop.saves_in_background = lambda device: {background}\n"
        "from pathlib import Path; from scalelab.train.loop import train\n"
        "from scalelab.train.run_directory import RunDir; train(RunDir(Path(sys.argv[1])))"
    )
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", program, str(killed.path)])
        seen = len(events(killed, "checkpoint"))
        while len(events(killed, "checkpoint")) < seen + 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not killed.is_done

    assert train(killed).loss == straight.loss
    assert events(killed, "resume")


def test_micro_batches_leave_the_mathematics_alone(run, monkeypatch):
    whole = train(run("a"))
    monkeypatch.setattr(loop, "first_micro_rows", lambda *_: 3)
    parts = train(run("b"))

    assert parts.micro_batch_tokens == 3 * 32
    assert whole.micro_batch_tokens == 256
    assert parts.loss == pytest.approx(whole.loss, abs=2e-3)


def test_out_of_memory_halves_the_micro_batch_and_goes_on(run, monkeypatch):
    forward = TransformerNet.forward

    def tight(self, tokens, targets=None):
        if targets is not None and len(tokens) > 2:
            raise OutOfMemory("no room for more than 2 windows")
        return forward(self, tokens, targets)

    straight = train(run("a"))
    monkeypatch.setattr(TransformerNet, "forward", tight)
    run_dir = run("b")
    result = train(run_dir)

    assert [e["micro_batch_tokens"] for e in events(run_dir, "out_of_memory")] == [128, 64]
    assert result.micro_batch_tokens == 64
    assert result.batch_tokens == 256
    assert result.loss == pytest.approx(straight.loss, abs=2e-3)


def test_a_window_too_large_for_the_device_is_refused(run, monkeypatch):
    def never(self, tokens, targets=None):
        raise OutOfMemory("no room at all")

    monkeypatch.setattr(TransformerNet, "forward", never)
    with pytest.raises(RunError, match="one window of 32 tokens does not fit"):
        train(run())


def test_a_rate_that_is_far_too_high_ends_as_diverged(run):
    rates = {"lr_matrix": 50.0, "lr_embedding": 50.0, "lr_head": 50.0, "lr_vector": 50.0}
    run_dir = run(optimizer=rates | {"grad_clip": None})
    result = train(run_dir)

    assert result.status == "diverged"
    assert "loss" in result.reason
    assert result.loss is None
    assert result.n_tokens < result.n_tokens_planned
    assert result.flops == result.flops_per_token * result.n_tokens
    assert events(run_dir, "end")[-1]["status"] == "diverged"


def test_nan_ends_as_diverged(run, monkeypatch):
    forward = TransformerNet.forward
    monkeypatch.setattr(
        TransformerNet,
        "forward",
        lambda self, x, y=None: forward(self, x, y) * (math.nan if y is not None else 1.0),
    )
    result = train(run())

    assert result.status == "diverged"
    assert "loss nan" in result.reason


def test_a_loss_that_is_no_number_is_not_saved(run, monkeypatch):
    forward = TransformerNet.forward
    monkeypatch.setattr(
        TransformerNet,
        "forward",
        lambda self, x, y=None: forward(self, x, y) * (math.nan if y is not None else 1.0),
    )
    result = train(run(n_steps=300), after(1))

    assert result.status == "diverged"
    assert "loss nan by step 1" in result.reason


def test_a_checkpoint_of_another_spec_is_refused(run):
    mine, other = run(seed=0), run(seed=1)
    train(other, after(5))
    mine.checkpoints.parent.mkdir(exist_ok=True)
    other.checkpoints.rename(mine.checkpoints)

    with pytest.raises(RunError) as error:
        train(mine)
    assert f"belongs to run {other.run}, not to {mine.run}" in str(error.value)
    assert "fix:" in str(error.value)


@pytest.mark.parametrize("harm", ["truncate", "scramble", "lose"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, harm):
    straight = train(run("a"))
    run_dir = run("b")
    train(run_dir, after(10))
    train(run_dir, after(10))
    newest = sorted(run_dir.checkpoints.iterdir())[-1] / "state.safetensors"
    data = newest.read_bytes()
    if harm == "truncate":
        newest.write_bytes(data[: len(data) // 2])
    elif harm == "scramble":
        newest.write_bytes(b"\xff" * 64 + data[64:])
    else:
        newest.unlink()

    result = train(run_dir)

    assert result.loss == straight.loss
    assert events(run_dir, "checkpoint_passed_over")
    assert events(run_dir, "resume")[-1]["step"] == 10


def test_a_disk_that_fills_up_under_a_checkpoint_leaves_the_one_before(run):
    straight = train(run("a"))
    run_dir = run("b")
    train(run_dir, after(10))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a checkpoint is larger
    try:
        with pytest.raises(RunError, match="cannot write step-00000020") as error:
            train(run_dir, after(10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "fix:   free some space" in str(error.value)
    assert [p.name for p in run_dir.checkpoints.iterdir()] == ["step-00000010"]
    assert train(run_dir).loss == straight.loss


def test_only_the_newest_two_checkpoints_are_kept(run):
    run_dir = run()
    for _ in range(4):
        train(run_dir, after(5))

    assert [p.name for p in sorted(run_dir.checkpoints.iterdir())] == ["step-00000015", "step-00000020"]


def test_a_changed_spec_is_refused(run):
    run_dir = run()
    text = run_dir.spec_path.read_text()
    run_dir.spec_path.write_text(text.replace("n_steps: 60", "n_steps: 70"))

    with pytest.raises(RunError, match=r"spec\.yaml has been changed"):
        train(run_dir)


def test_a_corpus_that_is_gone_is_refused(run):
    with pytest.raises(DataError, match="no prepared corpus 0123456789ab"):
        train(run(data_digest="0123456789ab"))


def test_more_validation_tokens_than_there_are_is_refused(run):
    too_many = {"tokens": 10_000_000, "curve_points": 2, "curve_tokens": 1024}

    with pytest.raises(DataError, match="10000000 validation tokens are asked for, and"):
        train(run(evaluation=too_many))


def test_a_damaged_result_is_refused(run):
    run_dir = run()
    run_dir.result_path.write_text("{ half")

    with pytest.raises(RunError, match=r"result\.json cannot be read"):
        train(run_dir)


def test_two_seeds_differ_and_one_seed_does_not(run):
    one, same, other = train(run("a")), train(run("b")), train(run("c", seed=1))

    assert one.loss == same.loss != other.loss
    assert one.loss == pytest.approx(other.loss, abs=0.3)


def test_bf16_agrees_with_fp32_within_the_noise_of_seeds(run):
    fp32 = [train(run("a", seed=s, n_steps=200)).loss for s in range(3)]
    bf16 = [train(run("b", seed=s, n_steps=200, precision="bf16")).loss for s in range(3)]
    noise = torch.tensor(fp32).std().item()

    assert sum(bf16) / 3 == pytest.approx(sum(fp32) / 3, abs=max(3 * noise, 0.01))


@pytest.mark.parametrize("save_s", [0.0, 0.01, 1.0, 10.0, 20.0, 600.0])
def test_saves_take_at_most_a_twentieth_of_the_time_however_slow_they_are(save_s):
    wait = unsharded.seconds_until_next(save_s)

    assert wait == max(15.0, 20 * save_s)
    assert save_s / (save_s + wait) <= 0.05
