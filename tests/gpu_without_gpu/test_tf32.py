"""TF32 and bf16 outside of training runs: where they are used, that they are given back, what they change."""

from types import SimpleNamespace

import pytest
import torch
from pretended_gpus import A100, H100, MI50, MI300X, MIG, P100, T4, V100, pretend
from torch.overrides import TorchFunctionMode

from scalelab.evals.checkpoint import token_logprobs
from scalelab.hardware.device import TF32_NATS, find_device, tf32_products
from scalelab.posttrain.loop import _StageLoop
from scalelab.posttrain.trl import base

PRODUCTS = torch.backends.cuda.matmul
GPUS = [
    (V100, False, "fp32"),
    (T4, False, "fp32"),
    (P100, False, "fp32"),
    (A100, True, "bf16"),
    (H100, True, "bf16"),
    (MIG, True, "bf16"),
    (MI300X, False, "bf16"),
    (MI50, False, "fp32"),
]


@pytest.mark.parametrize(("gpu", "tf32", "trl"), GPUS, ids=lambda x: getattr(x, "name", x))
def test_precision_outside_of_runs_is_that_of_the_gpu(monkeypatch, gpu, tf32, trl):
    pretend(monkeypatch, gpu)

    with tf32_products() as used:
        assert used == tf32
        assert PRODUCTS.allow_tf32 == tf32
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    assert not PRODUCTS.allow_tf32
    assert find_device().trl_precision == trl


def test_on_a_cpu_nothing_is_changed(monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr("scalelab.hardware.device.cpu_multiplies_bf16", lambda: True)

    with tf32_products() as used:
        assert not used
        assert not PRODUCTS.allow_tf32
    assert find_device().precision("auto") == "bf16"
    assert find_device().trl_precision == "fp32"


def test_precision_is_given_back_after_an_error(monkeypatch):
    pretend(monkeypatch, H100)

    with pytest.raises(ValueError, match="a fault"), tf32_products():
        raise ValueError("a fault")
    assert not PRODUCTS.allow_tf32


def test_the_steps_of_a_stage_may_use_tf32(monkeypatch):
    pretend(monkeypatch, H100)
    seen = []
    run = SimpleNamespace(_run_all=lambda stop: seen.append(PRODUCTS.allow_tf32))

    _StageLoop.run_all(run, lambda: False)

    assert seen == [True]
    assert not PRODUCTS.allow_tf32


class Rounded(TorchFunctionMode):
    """Products whose factors are rounded to 10 bits, as TF32 does."""

    n = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (
            torch.nn.functional.linear,
            torch.matmul,
            torch.Tensor.matmul,
            torch.Tensor.__matmul__,
        ):
            Rounded.n += 1
            first, second, *rest = args
            args = (ten_bits(first), ten_bits(second), *rest)
        return function(*args, **(kwargs or {}))


def ten_bits(x):
    """Values rounded to the nearest with 10 bits behind the point, half away from zero."""
    return ((x.detach().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_tf32_changes_the_loss_of_a_text_by_less_than_is_accepted(tiny_spec, monkeypatch):
    monkeypatch.setattr(
        "scalelab.model.products.prefers_onednn", lambda: False
    )  # products as on a GPU: torch's own
    spec = tiny_spec(model={"n_layers": 4, "d_model": 64, "n_heads": 8, "n_kv_heads": 8, "d_ff": 192})
    network = spec.model.network()
    network.reset(seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # the head begins as zero; with these, losses vary as those of a trained model do
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 1.5 / weight.shape[1] ** 0.5)
    tokens = torch.randint(257, (32, spec.seq_len + 1), generator=torch.Generator().manual_seed(0))
    exact = token_logprobs(network, tokens)
    with Rounded():
        rounded = token_logprobs(network, tokens)

    assert Rounded.n > 4 * spec.model.n_layers
    assert exact.std() > 0.5
    assert 0 < (rounded - exact).abs().max() < 0.1
    assert abs(float((rounded - exact).mean())) < TF32_NATS


@pytest.mark.parametrize(
    ("gpu", "bf16"), [(H100, True), (T4, False), (None, False)], ids=["H100", "T4", "CPU"]
)
def test_trainers_of_trl_compute_in_bf16_where_the_gpu_has_it(monkeypatch, tmp_path, gpu, bf16):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    given = {}

    class Trainer:
        def __init__(self, **arguments):
            given.update(arguments["args"])

    monkeypatch.setattr(trl, "SFTTrainer", Trainer, raising=False)
    config = type("Config", (dict,), {"__dataclass_fields__": {}})
    monkeypatch.setattr(trl, "SFTConfig", config, raising=False)
    monkeypatch.setattr(base, "journal_callback", lambda job: None)
    rows = SimpleNamespace(select=lambda order: None)
    monkeypatch.setattr(datasets.Dataset, "from_list", lambda given: rows)
    pretend(monkeypatch, *([gpu] if gpu else []))
    job = SimpleNamespace(
        lora=None,
        folder=tmp_path,
        n_updates=4,
        batch=2,
        rates=SimpleNamespace(spec=lambda: SimpleNamespace(max_norm=lambda: 1.0)),
        context=SimpleNamespace(seed=0),
    )
    base.TrlJob._trainer(job, "SFT", None, None, [], [], {})

    assert given["bf16"] == bf16
    assert given["use_cpu"] == (gpu is None)
