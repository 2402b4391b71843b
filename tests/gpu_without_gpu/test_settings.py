"""Settings that change speed or memory: what a device gets, what is refused, and the same losses."""

import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from pretended_devices import PretendedDevice
from pretended_gpus import A100, H100, L40S, MI300X, T4, pretend
from torch.nn.functional import scaled_dot_product_attention

from scalelab.errors import RunError
from scalelab.hardware.attention import FLASH_3_MODULE
from scalelab.hardware.checks.attention import check_attention
from scalelab.hardware.checks.precision import check_precision
from scalelab.hardware.device import Device, find_device
from scalelab.hardware.machine import Machine
from scalelab.model.fp8 import fp8_linear
from scalelab.model.kernels import flash3_attention
from scalelab.model.transformer import network as transformer
from scalelab.train import memory
from scalelab.train.engines import compilation, settings
from scalelab.train.engines.settings import (
    GRAPH_TOKENS,
    SPEED_SETTINGS,
    attention_kernel,
    configure_network,
    graphs_note,
    matmul_kernel,
    resolved_spec,
    uses_cuda_graphs,
)
from scalelab.train.engines.single import SingleEngine
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunSpec

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
CPU = Device("cpu", "a CPU", 2**40)
GIB = 2**30


class PretendedGpu(Device):
    """A GPU for every decision of the program, whose tensors are on the CPU."""

    @property
    def torch(self):
        return torch.device("cpu")


GPU = PretendedGpu("cuda", "a GPU", 80 * GIB, (9, 0))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Let networks take the path of a GPU."""
    for home in ("scalelab.model.kernels", "scalelab.model.transformer.network"):
        monkeypatch.setattr(f"{home}.use_cpu_kernels", lambda x: False)


@pytest.fixture
def flash3(monkeypatch):
    """FlashAttention-3, installed: a module in its place, and the calls that it receives."""
    calls = []

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
        calls.append((q.shape, k.shape, v.shape, softmax_scale, causal))
        group = q.shape[2] // k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale)
        return mixed.transpose(1, 2)

    module = ModuleType(FLASH_3_MODULE)
    module.__spec__ = ModuleSpec(FLASH_3_MODULE, None)
    module.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, FLASH_3_MODULE, module)
    return calls


def steps(engine, n=3, rows=8):
    """Losses of a few steps."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(n):
        batch = torch.randint(257, (rows, 33), generator=generator)
        found.append(float(engine.gradient(batch)))
        engine.update(1.0, engine.norm())
    return torch.tensor(found)


def test_every_setting_is_a_field_whose_values_are_valid_and_whose_default_changes_no_id(tiny_spec):
    plain = tiny_spec()
    for setting in SPEED_SETTINGS:
        default = RunSpec.model_fields[setting.field].default
        assert default == Recipe.model_fields[setting.field].default
        assert default == (setting.values[0] if setting.changes_loss else "auto")  # no device chooses those
        assert len(setting.values) > 1
        for value in setting.values:
            assert getattr(tiny_spec(**{setting.field: value}), setting.field) == value
        if setting.field != "precision":
            assert tiny_spec(**{setting.field: default}).ids == plain.ids
            assert tiny_spec(**{setting.field: setting.values[-1]}).id != plain.id


@pytest.mark.parametrize(
    ("gpu", "cannot"),
    [
        (T4, {"bf16", "FlashAttention-3", "products in fp8"}),
        (A100, {"FlashAttention-3", "products in fp8"}),
        (L40S, {"FlashAttention-3"}),
        (H100, set()),
        (MI300X, {"FlashAttention-3", "products in fp8"}),
        (None, {"FlashAttention-3", "CUDA graphs", "products in fp8"}),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_a_device_says_which_settings_it_has(monkeypatch, flash3, gpu, cannot):
    pretend(monkeypatch, *([gpu] if gpu else []))
    monkeypatch.setattr(Device, "multiplies_bf16", property(lambda d: gpu is not T4))
    monkeypatch.setattr(settings, "compile_obstacle_of", lambda device: None)
    device = find_device()

    assert {s.name for s in SPEED_SETTINGS if s.obstacle(device)} == cannot


def test_what_is_left_to_the_device_is_resolved(tiny_spec, monkeypatch, flash3):
    monkeypatch.setattr(compilation, "compile_obstacle", lambda device: None)
    monkeypatch.setattr(memory, "chunk_rows", lambda n, vocabulary: 50)
    spec = tiny_spec(precision="auto")
    fields = ("precision", "compile", "cross_entropy", "attention", "cuda_graphs")
    found = {
        device.name: [getattr(resolved_spec(spec, device), name) for name in fields]
        for device in (GPU, PretendedGpu("cuda", "small", 2**22, (9, 0)), CPU)
    }
    asked = tiny_spec(precision="bf16", cuda_graphs="off", attention="sdpa", compile="whole")
    assert resolved_spec(asked, GPU) == asked.model_copy(update={"cross_entropy": "plain"})
    monkeypatch.setattr(Device, "multiplies_bf16", property(lambda device: False))
    narrow = resolved_spec(spec, GPU)

    assert found["a GPU"] == ["bf16", "block", "plain", "flash3", "on"]
    assert found["small"] == ["bf16", "block", "chunked", "flash3", "on"]
    assert found["a CPU"][1:] == ["off", "plain", "sdpa", "off"]
    assert (narrow.precision, narrow.attention) == ("fp32", "sdpa")
    with pytest.raises(RunError, match="the network is not compiled"):
        resolved_spec(tiny_spec(cuda_graphs="on", compile="off"), GPU)


# Cross-entropy


@pytest.mark.parametrize(
    ("asked", "device", "rows", "chunked"),
    [
        ("auto", CPU, 2**12, False),
        ("chunked", CPU, 8, True),
        ("auto", GPU, 2**8, False),
        ("auto", GPU, 2**20, True),
        ("plain", GPU, 2**20, False),
        ("auto", Device("cuda", "a GPU", None), 2**20, False),
    ],
)
def test_the_loss_is_chunked_where_logits_are_large_for_the_memory(tiny_spec, asked, device, rows, chunked):
    network = tiny_spec().model.network()
    configure_network(network, tiny_spec(cross_entropy=asked), device, "bf16", rows)

    assert (network.loss_rows is not None) == chunked


@pytest.mark.parametrize("mode", ["off", "whole"])
def test_a_run_in_chunks_has_the_losses_of_one_without(tiny_spec, monkeypatch, as_on_a_gpu, mode):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    monkeypatch.setattr(memory, "chunk_rows", lambda n, vocabulary: 50)
    plain = SingleEngine(tiny_spec(cross_entropy="plain", compile="off"), GPU, "fp32", 4)
    spec = tiny_spec(cross_entropy="chunked", compile=mode, cuda_graphs="off")
    chunked = SingleEngine(spec, GPU, "fp32", 4)

    assert (plain.network.loss_rows, chunked.network.loss_rows) == (None, 50)
    assert torch.allclose(steps(chunked), steps(plain), rtol=1e-5)


def test_a_network_without_chunks_is_refused_only_where_they_are_asked_for(tiny_spec):
    network = tiny_spec().model.network()
    monkey = type("Other", (type(network),), {"follows": frozenset()})
    network.__class__ = monkey
    with pytest.raises(RunError, match="cross_entropy is chunked, which this model cannot follow"):
        configure_network(network, tiny_spec(cross_entropy="chunked"), CPU, "fp32", 8)
    configure_network(network, tiny_spec(), GPU, "bf16", 2**20)
    assert network.loss_rows is None


def test_an_architecture_that_has_no_such_loss_is_refused_where_it_is_asked_for(tiny_spec, monkeypatch):
    spec = tiny_spec(cross_entropy="chunked")
    monkeypatch.setattr(type(spec.model), "has_chunked_loss", False)
    with pytest.raises(RunError, match="cross_entropy is chunked, which this model cannot follow"):
        configure_network(spec.model.network(), spec, CPU, "fp32", 8)


# Attention


@pytest.mark.parametrize(
    ("gpu", "precision", "kernel"),
    [(H100, "bf16", "flash3"), (H100, "fp32", "sdpa"), (A100, "bf16", "sdpa"), (MI300X, "bf16", "sdpa")],
    ids=lambda x: getattr(x, "name", x),
)
def test_flash_attention_3_is_chosen_on_hopper_in_bf16(
    monkeypatch, tiny_spec, flash3, gpu, precision, kernel
):
    pretend(monkeypatch, gpu)
    device = find_device()

    assert attention_kernel(tiny_spec(), device, precision) == kernel
    assert attention_kernel(tiny_spec(attention="sdpa"), device, precision) == "sdpa"
    asked = tiny_spec(attention="flash3")
    if kernel == "flash3":
        assert attention_kernel(asked, device, precision) == "flash3"
        return
    with pytest.raises(RunError, match=r"attention is flash3, and FlashAttention-3") as refusal:
        attention_kernel(asked, device, precision)
    assert "`attention: sdpa`" in refusal.value.fix


def test_flash_attention_3_that_is_not_installed_is_refused_with_the_fix(monkeypatch, tiny_spec):
    pretend(monkeypatch, H100)

    assert attention_kernel(tiny_spec(), find_device(), "bf16") == "sdpa"
    with pytest.raises(RunError, match="flash_attn_interface, is not installed") as refusal:
        attention_kernel(tiny_spec(attention="flash3"), find_device(), "bf16")
    assert "Dao-AILab/flash-attention" in refusal.value.fix


@pytest.mark.parametrize("there", [False, True])
def test_doctor_says_which_kernel_runs_use(monkeypatch, tmp_path, request, there):
    if there:
        request.getfixturevalue("flash3")
    pretend(monkeypatch, H100)
    value = check_attention(Machine(tmp_path)).value

    assert ("FlashAttention-3 is installed, and runs in bf16 use it" in value) == there
    assert ("FlashAttention-3 is not installed, and runs use torch's kernel" in value) != there


@pytest.mark.parametrize("as_tuple", [False, True])
def test_the_kernel_is_called_in_its_own_layout(flash3, as_tuple):
    """Queries of 4 heads, keys and values of 2, each of size 8, in 3 rows of 5 tokens."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, 5, 8, generator=generator) for heads in (4, 2, 2))
    if as_tuple:
        module = sys.modules[FLASH_3_MODULE]
        kernel = module.flash_attn_func
        module.flash_attn_func = lambda *args, **options: (kernel(*args, **options), None)
    mixed = flash3_attention(q, k, v)

    wide = (x.repeat_interleave(2, dim=1) for x in (k, v))
    assert torch.allclose(mixed, scaled_dot_product_attention(q, *wide, is_causal=True), atol=1e-6)
    assert flash3 == [((3, 5, 4, 8), (3, 5, 2, 8), (3, 5, 2, 8), 1 / math.sqrt(8), True)]


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_network_computes_the_same_with_either_kernel(tiny_spec, flash3, as_on_a_gpu, kv_heads, qk_norm):
    spec = tiny_spec(model={"n_kv_heads": kv_heads, "qk_norm": qk_norm})
    tokens = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(0))
    hidden = []
    for kernel in ("sdpa", "flash3"):
        network = spec.model.network()
        network.reset(0)
        network.configure(None, kernel)
        hidden.append(network.hidden(tokens))

    assert torch.allclose(*hidden, atol=1e-5)
    assert len(flash3) == spec.model.depth()
    network(tokens, segments_BT=torch.zeros_like(tokens))
    assert len(flash3) == spec.model.depth()  # segments need a mask


def test_heads_without_a_kernel_keep_torchs(tiny_spec, flash3):
    odd = tiny_spec(model={"head_size": 12, "d_model": 24})
    network = odd.model.network()
    configure_network(network, odd, GPU, "bf16", 8)
    assert network.attention_kernel == "sdpa"
    asked = odd.model_copy(update={"attention": "flash3"})
    with pytest.raises(RunError, match="attention is flash3, which this model cannot follow"):
        configure_network(network, asked, GPU, "bf16", 8)


# CUDA graphs


@pytest.mark.parametrize(
    ("asked", "device", "mode", "tokens", "used"),
    [
        ("auto", GPU, "block", GRAPH_TOKENS - 32, True),
        ("auto", GPU, "block", GRAPH_TOKENS, False),
        ("on", GPU, "whole", 2 * GRAPH_TOKENS, True),
        ("off", GPU, "block", 32, False),
        ("auto", GPU, "off", 32, False),
        ("auto", CPU, "block", 32, False),
        ("on", CPU, "block", 32, False),
    ],
)
def test_small_compiled_steps_are_replayed(tiny_spec, asked, device, mode, tokens, used):
    spec = tiny_spec(cuda_graphs=asked)

    assert uses_cuda_graphs(spec, device, mode, tokens // spec.seq_len) == used
    assert bool(graphs_note(spec, device)) == (asked == "on" and device is CPU)


def test_graphs_without_a_compiler_are_refused(tiny_spec):
    with pytest.raises(RunError, match="cuda_graphs is on, and the network is not compiled") as refusal:
        uses_cuda_graphs(tiny_spec(cuda_graphs="on", compile="off"), GPU, "off", 8)
    assert "`cuda_graphs: auto`" in refusal.value.fix


@pytest.fixture
def compiled(monkeypatch):
    """The mode in which each function is compiled, marks of steps, and resets; nothing is compiled."""
    seen = {"modes": [], "marks": 0, "resets": 0}

    def compile_(function, **options):
        seen["modes"].append((function.__name__, options["mode"], options["dynamic"]))
        return function

    def count(name):
        seen[name] += 1

    monkeypatch.setattr(compilation, "compile_obstacle", lambda device: None)
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: count("marks"))
    monkeypatch.setattr(torch.compiler, "reset", lambda: count("resets"))
    return seen


@pytest.mark.parametrize("asked", ["on", "off"])
def test_a_step_keeps_to_the_rules_of_graphs(tiny_spec, as_on_a_gpu, compiled, asked):
    """Every pass is marked, the validation's loss outlives the next pass, and nothing moves."""
    spec = tiny_spec(cuda_graphs=asked, compile="block")
    engine = SingleEngine(spec, GPU, "fp32", 4)
    mode = "reduce-overhead" if asked == "on" else None
    assert compiled["modes"] == [
        *[("forward", mode, False)] * spec.model.depth(),
        ("_head_of", mode, False),
        ("mean_losses", None, False),
    ]
    places = [(p.data_ptr(), p.grad.data_ptr()) for p in engine.network.parameters()]
    steps(engine, n=2, rows=8)
    assert compiled["marks"] == (4 if asked == "on" else 0)
    windows = torch.randint(257, (8, 33), generator=torch.Generator().manual_seed(1)).numpy()
    engine.validate(windows)
    assert compiled["marks"] == (6 if asked == "on" else 0)
    engine._halve("no room")
    assert compiled["resets"] == (1 if asked == "on" else 0)
    steps(engine, n=1, rows=8)
    assert compiled["marks"] == (10 if asked == "on" else 0)
    assert [(p.data_ptr(), p.grad.data_ptr()) for p in engine.network.parameters()] == places


# Products in fp8


@pytest.mark.parametrize(
    ("gpu", "precision", "seq_len", "problem", "fix"),
    [
        (H100, "bf16", 32, None, None),
        (L40S, "bf16", 32, None, None),
        (A100, "bf16", 32, "compute capability 8.9 or higher, not NVIDIA A100", "use an L40S, H100"),
        (MI300X, "bf16", 32, "not AMD Instinct MI300X (architecture gfx942)", "use an L40S, H100"),
        (None, "bf16", 32, "products in fp8 need an NVIDIA GPU", "use an L40S, H100"),
        (H100, "fp32", 32, "matmul is fp8, and precision is fp32", "`precision: bf16`"),
        (H100, "bf16", 40, "matmul is fp8, and seq_len 40 is no multiple of 16", "whole multiples of 16"),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_fp8_is_used_where_it_is_asked_for_and_can_be(
    monkeypatch, tiny_spec, gpu, precision, seq_len, problem, fix
):
    pretend(monkeypatch, *([gpu] if gpu else []))
    device, asked = find_device(), tiny_spec(matmul="fp8", seq_len=seq_len, batch_tokens=8 * seq_len)

    assert matmul_kernel(tiny_spec(), device, precision) == "plain"
    if problem is None:
        assert matmul_kernel(asked, device, precision) == "fp8"
        assert (
            resolved_spec(asked.model_copy(update={"compile": "off", "precision": "bf16"}), device).matmul
            == "fp8"
        )
        return
    with pytest.raises(RunError) as refusal:
        matmul_kernel(asked, device, precision)
    assert problem in refusal.value.problem
    assert "`matmul: plain`" in refusal.value.fix
    assert fix in refusal.value.fix


def test_matrices_of_other_sizes_are_refused(tiny_spec):
    odd = tiny_spec(model={"d_ff": 40}, matmul="fp8")
    with pytest.raises(RunError, match="matmul is fp8, which this model cannot follow") as refusal:
        configure_network(odd.model.network(), odd, GPU, "bf16", 8)
    assert "d_ff 40" in refusal.value.where
    assert "multiples of 16" in refusal.value.fix


def test_products_of_the_blocks_alone_are_in_fp8_and_losses_stay_near(tiny_spec, monkeypatch, as_on_a_gpu):
    calls = []

    def counted(x, weight):
        calls.append(tuple(weight.shape))
        return fp8_linear(x, weight)

    monkeypatch.setattr(transformer, "fp8_linear", counted)
    spec = tiny_spec(model={"n_layers": 1}, compile="off", cuda_graphs="off")
    found, wanted = (
        steps(SingleEngine(spec.model_copy(update={"matmul": matmul}), GPU, "bf16", 2), n=2, rows=2)
        for matmul in ("fp8", "plain")
    )

    assert set(calls) == {(48, 16), (16, 16), (96, 16), (16, 48)}  # neither head (257, 16) nor embedding
    assert not torch.equal(found, wanted)
    assert torch.allclose(found, wanted, rtol=5e-3)


def test_the_result_and_the_log_name_fp8(tiny_spec, tmp_path, monkeypatch, as_on_a_gpu):
    from scalelab.train import loop
    from scalelab.train.run_directory import RunDir

    monkeypatch.setattr(loop, "find_device", lambda: PretendedDevice("cuda", "a GPU", 80 * GIB, (9, 0)))
    monkeypatch.setattr(loop, "saves_in_background", lambda device: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    evaluation = {"tokens": 64, "curve_points": 0, "curve_tokens": 64}
    changes = {"matmul": "fp8", "precision": "auto", "compile": "off", "evaluation": evaluation}
    spec = tiny_spec(model={"n_layers": 1}, n_steps=1, batch_tokens=64, **changes)
    run_dir = RunDir(tmp_path / "a-sweep" / spec.id)
    run_dir.create(spec)
    result = loop.train(run_dir)

    assert result.precision == "bf16+fp8"
    assert next(run_dir.events())["precision"] == "bf16+fp8"


@pytest.mark.parametrize(
    ("gpu", "words"), [(H100, "; fp8 with `matmul: fp8`"), (A100, "; no fp8 on NVIDIA A100-SXM4-80GB")]
)
def test_doctor_says_which_gpus_have_fp8(monkeypatch, tmp_path, gpu, words):
    pretend(monkeypatch, gpu)

    assert check_precision(Machine(tmp_path)).value.endswith(words)


def test_a_cpu_is_told_that_graphs_have_no_effect(tiny_spec, tmp_path):
    from scalelab.train.loop import train
    from scalelab.train.run_directory import RunDir

    spec = tiny_spec(cuda_graphs="on", n_steps=1)
    run_dir = RunDir(tmp_path / "a-sweep" / spec.id)
    run_dir.create(spec)
    train(run_dir)

    assert "cuda_graphs is on without effect" in (run_dir.path / "log.jsonl").read_text()
