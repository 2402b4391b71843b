"""What a run says of itself, against a count by hand: FLOPs, tokens, rates, MFU, bits, errors."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from scalelab.data.corpus.stream import Stream
from scalelab.hardware.device import Device
from scalelab.hardware.layout import Layout
from scalelab.model.transformer.network import TransformerNet
from scalelab.train import loop
from scalelab.train.checkpoints.unsharded import Progress
from scalelab.train.evaluate import summary
from scalelab.train.loop import Diverged, LaunchOptions, train
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunSpec
from scalelab.train.stability import Stability

# The tiny model: two blocks of 4 x 16 x 16 and 3 x 16 x 48, two norms each, one more, and
# embedding and head of 257 x 16.
BLOCKS = 2 * (4 * 16 * 16 + 3 * 16 * 48)
MATMUL = BLOCKS + 257 * 16
TOTAL = BLOCKS + 2 * 257 * 16 + 5 * 16
PER_TOKEN = 6 * MATMUL + 12 * 2 * 16 * 32  # 2 layers, heads 16 wide together, 32 tokens
PEAK = 1e12


@dataclass(frozen=True)
class Fast(Device):
    """A CPU with a peak."""

    @property
    def peak_flops_per_s(self):
        return PEAK


@pytest.fixture(scope="module")
def ended(tmp_path_factory, tiny_text, tiny_corpus):
    """A run of 60 steps of 256 tokens on a device with a peak, its result and its log."""
    spec = RunSpec.model_validate(
        {
            "data": {
                "source": {"kind": "text", "paths": [f"{tiny_text}/*.txt"]},
                "tokenizer": {"kind": "bytes"},
                "validation": 0.2,
                "epochs": 50,
            },
            "data_digest": tiny_corpus.digest,
            "seq_len": 32,
            "model": {
                "kind": "transformer",
                "n_layers": 2,
                "d_model": 16,
                "n_heads": 2,
                "n_kv_heads": 2,
                "head_size": 8,
                "d_ff": 48,
                "vocab_size": 257,
            },
            "optimizer": {"lr_matrix": 3e-3, "lr_embedding": 3e-2, "lr_head": 3e-2, "lr_vector": 3e-3},
            "schedule": {"kind": "wsd", "warmup": 0.1, "cooldown": 0.5},
            "batch_tokens": 256,
            "n_steps": 60,
            "evaluation": {"tokens": 4096, "curve_points": 2, "curve_tokens": 1024},
            "precision": "fp32",
        }
    )
    run_dir = RunDir(tmp_path_factory.mktemp("runs") / spec.id)
    run_dir.create(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "find_device", lambda: Fast("cpu", "fast", None))
        result = train(run_dir)
    return run_dir, result, tiny_corpus


def test_flops_are_those_of_the_model_and_the_tokens_it_saw(ended):
    _, result, _ = ended

    assert result.n_tokens == result.n_tokens_planned == 60 * 256
    assert result.flops_per_token == PER_TOKEN
    assert result.flops == PER_TOKEN * 60 * 256
    assert result.flops_6nd == 6 * TOTAL * 60 * 256


def test_every_count_of_parameters_is_recorded(ended):
    _, result, _ = ended

    assert (result.n_params_total, result.n_params_active) == (TOTAL, TOTAL)
    assert result.n_params_matmul == MATMUL
    assert result.n_params_non_embedding == BLOCKS + 5 * 16


def test_tokens_are_new_until_the_corpus_is_through(ended):
    _, result, corpus = ended

    once = (corpus.n_train - 1) // 32 * 32
    assert result.n_tokens_unique == min(60 * 256, once)


def test_mfu_is_the_models_flops_over_the_peak(ended):
    _, result, _ = ended

    assert result.mfu == pytest.approx(result.tokens_per_s * PER_TOKEN / PEAK)


def test_bits_per_byte_are_nats_over_ln_2_and_the_bytes_of_a_token(ended):
    """A token of this corpus is a byte, but for an end token to a document."""
    _, result, corpus = ended

    assert result.bpb == pytest.approx(result.loss / math.log(2) / corpus.bytes_per_token)
    assert corpus.bytes_per_token == pytest.approx(1, rel=0.01)
    assert corpus.bpb(math.log(2)) == pytest.approx(1 / corpus.bytes_per_token)


def test_the_rate_of_each_step_is_that_of_the_schedule(ended):
    """60 steps: 6 of warmup, then full until the last 30, which fall by 1/30 a step."""
    run_dir, _, _ = ended

    rates = {e["step"]: e["lr"] for e in run_dir.events() if e["event"] == "step"}

    wanted = {1: 1 / 6, 3: 0.5, 6: 1, 30: 1, 31: 1, 32: 29 / 30, 46: 0.5, 60: 1 / 30}
    for step, factor in wanted.items():
        assert rates[step] == pytest.approx(3e-3 * factor), step


def test_what_was_learned_is_what_plain_adamw_learns_on_the_same_batches(ended):
    """The first six steps, of the warmup, in torch's own words; later ones follow from these."""
    run_dir, _, corpus = ended
    spec = run_dir.spec()
    net = TransformerNet(spec.model)
    net.reset(spec.seed)
    rates = {"matrix": 3e-3, "embedding": 3e-2, "head": 3e-2, "vector": 3e-3}
    groups = [
        {
            "params": [p for n, p in net.named_parameters() if net.kinds()[n] == kind],
            "lr": lr,
            "weight_decay": 0.0 if kind == "vector" else 0.1,
        }
        for kind, lr in rates.items()
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    stream, losses = Stream(corpus.tokens("train"), 32, spec.seed), []
    for k in range(6):
        for group, lr in zip(adamw.param_groups, rates.values(), strict=True):
            group["lr"] = lr * (k + 1) / 6
        tokens = torch.from_numpy(stream.batch(k, 8))
        adamw.zero_grad()
        loss = net(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())

    logged = [e["loss"] for e in run_dir.events() if e["event"] == "step"][:6]

    assert logged == pytest.approx(losses, rel=1e-4)  # sums in another order, over six updates


def test_mfu_counts_every_device_of_a_launched_run(ended, monkeypatch):
    run_dir, _, _ = ended
    monkeypatch.setattr(loop, "find_device", lambda: Fast("cpu", "fast", None))
    run = loop._Run.__new__(loop._Run)
    run.device, run.size = Fast("cpu", "fast", None), run_dir.spec().model.size(32)
    run.spec, run.launched = run_dir.spec(), LaunchOptions(Layout(replicate=4), Stability())

    assert run._mfu(1e6) == pytest.approx(1e6 * PER_TOKEN / (4 * PEAK))

    run.spec = run.spec.model_copy(update={"matmul": "fp8"})
    assert run._mfu(1e6) is None


@pytest.mark.parametrize(("above", "diverges"), [(0.99, False), (1.01, True)])
def test_a_run_has_diverged_a_nat_above_an_untrained_model(ended, above, diverges):
    """An untrained model of 257 tokens loses ln 257 nats a token."""
    run_dir, _, _ = ended
    run = loop._Run.__new__(loop._Run)
    run.spec, run.launched, run.device = run_dir.spec(), None, Device("cpu", "cpu", None)
    run.engine, run.branches = SimpleNamespace(is_first=False, observed=dict), None
    run.progress = Progress(step=30, loss_sum=2 * (math.log(257) + above), loss_steps=2)

    with pytest.raises(Diverged) if diverges else nullcontext():
        run._log(1.0, 1e3, [])


def test_a_standard_error_is_the_spread_of_windows_over_the_root_of_their_number():
    mean, error = summary(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))

    # Mean 3; squares 4 + 1 + 0 + 9 = 14 over 3; root over 2.
    assert (mean, error) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2))
    assert math.isnan(summary(torch.tensor([1.0]))[1])
