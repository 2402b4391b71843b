"""Validation on a GPU: batched, compiled, of one shape, and the same loss as window by window."""

import sys
from pathlib import Path

import pytest
import torch

from scalelab.errors import RunError
from scalelab.hardware.device import Device, OutOfMemory, find_device
from scalelab.hardware.layout import Layout
from scalelab.model import kernels
from scalelab.model.loss_memory import chunk_rows, logits_bytes, loss_bytes
from scalelab.plan.cost.memory import memory
from scalelab.train.engines.compilation import validation_rows
from scalelab.train.engines.single import SingleEngine
from scalelab.train.evaluate import validation_loss, window_losses
from scalelab.train.memory import loss_rows, run_bytes, state_bytes

sys.path.insert(0, str(Path(__file__).parent))
from graphs import counted

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it traces


class PretendedGpu(Device):
    """A GPU for every decision of the program, whose tensors are on the CPU."""

    @property
    def torch(self):
        return torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch):
    for home in ("scalelab.model.kernels", "scalelab.model.transformer.network"):
        monkeypatch.setattr(f"{home}.use_cpu_kernels", lambda x: False)
    return PretendedGpu("cuda", "a GPU", 2**34)


def random_windows(n):
    return torch.randint(257, (n, 33), generator=torch.Generator().manual_seed(0))


def passes(engine, monkeypatch):
    """Shapes of tokens that the network is given from now on."""
    forward, found = engine.network.forward, []

    def counting(tokens, *targets):
        found.append(tuple(tokens.shape))
        return forward(tokens, *targets)

    monkeypatch.setattr(engine.network, "forward", counting)
    return found


def test_training_validation_and_halving_make_one_graph_a_shape(tiny_spec, gpu, monkeypatch):
    evaluation = {"tokens": 20 * 32, "curve_points": 2, "curve_tokens": 6 * 32}
    spec = tiny_spec(evaluation=evaluation, cuda_graphs="off")  # halving would drop every graph
    batch, curve, final = random_windows(8), random_windows(6).numpy(), random_windows(20).numpy()
    with counted(monkeypatch) as graphs:
        engine = SingleEngine(spec, gpu, "bf16", 8)

        def step():
            engine.gradient(batch)
            engine.update(1.0, engine.norm())

        eager = SingleEngine(spec.model_copy(update={"compile": "off"}), gpu, "bf16", 8)
        assert float(engine.gradient(batch)) == pytest.approx(float(eager.gradient(batch)), rel=1e-3)
        assert float(engine.norm()) == pytest.approx(float(eager.norm()), rel=1e-3)
        assert len(graphs) == 2  # a block, and the head with its loss
        assert engine.validate(curve) == pytest.approx(eager.validate(curve), rel=1e-3)
        engine.zero_grad()
        assert len(graphs) == 5  # a block, the head, and the losses of windows
        step()
        engine.validate(final)
        engine.validate(curve)
        step()
        assert len(graphs) == 5, graphs.shapes
        engine._halve("not enough")
        step()
        assert len(graphs) == 7  # the new shape of training
        engine.validate(final)
        step()
        assert len(graphs) == 7, graphs.shapes
        assert not graphs.symbols


def test_a_gpu_validates_whole_micro_batches(tiny_spec, gpu, monkeypatch):
    spec = tiny_spec(
        compile="off", evaluation={"tokens": 40 * 32, "curve_points": 2, "curve_tokens": 12 * 32}
    )
    engine = SingleEngine(spec, gpu, "fp32", 8)
    shapes, windows = passes(engine, monkeypatch), random_windows(20).numpy()
    loss, error = engine.validate(windows)

    assert shapes == [(8, 32)] * 3
    one_by_one = [validation_loss(engine.network, w[None], gpu.torch, 257)[0] for w in windows]
    assert loss == pytest.approx(sum(one_by_one) / 20, rel=1e-6)
    assert error == pytest.approx(torch.tensor(one_by_one).std().item() / 20**0.5, rel=1e-3)


@pytest.mark.parametrize(("loss", "tensor"), [("plain", 1), ("chunked", 1), ("plain", 8)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_windows_of_a_validation_take_no_more_than_was_counted(tiny_spec, loss, tensor, precision):
    """64 windows of 1024 tokens and a vocabulary of 131,072: 64 to 80 GiB of plain logits on 80 GiB."""
    model = {"vocab_size": 2**17, "d_model": 1024, "n_heads": 128, "n_kv_heads": 128}
    evaluation = {"tokens": 2**20, "curve_points": 2, "curve_tokens": 2**20}
    sizes = {"seq_len": 1024, "batch_tokens": 2**16, "evaluation": evaluation}
    spec = tiny_spec(model=model, cross_entropy=loss, compile="off", **sizes)
    gpu, number, tokens = PretendedGpu("cuda", "a GPU", 80 * 2**30), 2 if precision == "bf16" else 4, 2**16
    chunk = loss_rows(spec.model, loss, tokens, number, "cuda", gpu.memory_bytes)
    rows = validation_rows(spec, gpu, 64, number, chunk, tensor=tensor)
    window = logits_bytes(1024, 2**17, number)

    # A chunk has 1024 rows, which is one window; its gradients and inputs take as much as another in fp32.
    in_chunks = 2 if precision == "fp32" else 1
    assert rows == {("plain", 1): 64, ("chunked", 1): in_chunks, ("plain", 8): 8}[loss, tensor]
    assert rows * window <= loss_bytes(tokens, 2**17, 1024, number, chunk) / tensor < (rows + 2) * window
    fewer = validation_rows(spec, gpu, 1, number, loss_rows(spec.model, loss, 1024, number, "cuda", None))
    assert fewer == 1


def test_an_estimate_has_room_for_the_logits_of_one_window(tiny_spec):
    """Of a tiny model with a large vocabulary: more than its activations and a chunk of its loss."""
    spec = tiny_spec(model={"vocab_size": 2**20}, seq_len=1024, batch_tokens=1024, cross_entropy="chunked")
    window = logits_bytes(1024, 2**20, 4)
    state = state_bytes(spec.model.size(1024).n_params_total, "fp32", spec.optimizer)
    layout = memory(
        spec.model, seq_len=1024, rows=1, layout=Layout(replicate=2), convention_name="fp32",
        cross_entropy="chunked",
    )  # fmt: skip

    assert loss_bytes(1024, 2**20, spec.model.width(), 4, chunk_rows(1024, 2**20)) < window / 4
    assert run_bytes(spec, "fp32", 1, "cuda", 2**36) == state + window
    assert layout.activations_bytes + layout.logits_bytes == window


def test_bf16_logits_are_summed_in_wider_numbers():
    logits = torch.randn(2, 512, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    windows = torch.randint(300, (2, 513), generator=torch.Generator().manual_seed(1)).numpy()
    found = window_losses(lambda tokens: logits, windows, torch.device("cpu"), 300, rows=2)
    targets = torch.from_numpy(windows[:, 1:]).reshape(-1)
    exact = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), targets, reduction="none")

    assert found.dtype == torch.float64
    assert torch.allclose(found, exact.view(2, -1).mean(1), rtol=1e-6)


def test_a_cpu_validates_as_many_windows_as_before(tiny_spec, monkeypatch):
    engine = SingleEngine(tiny_spec(), find_device(), "fp32", 4)
    shapes = passes(engine, monkeypatch)
    engine.validate(random_windows(600).numpy())

    assert shapes == [(2**22 // (257 * 32), 32), (600 - 2**22 // (257 * 32), 32)]


def test_a_validation_that_does_not_fit_goes_on_with_fewer_windows(tiny_spec, gpu, monkeypatch):
    spec = tiny_spec(compile="off")
    engine, windows = SingleEngine(spec, gpu, "fp32", 8), random_windows(10).numpy()
    expected, forward, most = engine.validate(windows), engine.network.forward, [3]

    def tight(tokens, *targets):
        if len(tokens) > most[0]:
            raise OutOfMemory("no room")
        return forward(tokens, *targets)

    monkeypatch.setattr(engine.network, "forward", tight)
    assert engine.validate(windows) == pytest.approx(expected, rel=1e-6)
    assert engine.micro_rows == 8  # training fits, as before
    most[0] = 0
    with pytest.raises(RunError, match="one window of 32 tokens does not fit"):
        engine.validate(windows)


def test_kernels_of_the_cpu_are_not_traced():
    """Their backward passes are written by hand; a compiler fuses the plain expressions."""
    seen = []

    def compiled(x):
        seen.append(kernels.use_cpu_kernels(x))
        return x + 1

    torch.compile(compiled, backend="eager")(torch.zeros(2))
    compiled(torch.zeros(2))
    assert seen[-1] is True
    assert seen[0] is False
