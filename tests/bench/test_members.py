"""Every benchmark on this CPU and on a pretended GPU, and the faults that they are there to find."""

import time
from dataclasses import replace

import pytest
import torch
from pretended_devices import H100, T4

from scalelab.bench import BENCHMARKS
from scalelab.bench.members import compile as compiling
from scalelab.bench.members import correctness, settings, several, throughput
from scalelab.bench.members.attention import ProfiledName, attention_row, is_attention
from scalelab.bench.members.settings import SETTINGS, SettingsBenchmark, TimedSetting
from scalelab.bench.members.validation import validation_share
from scalelab.bench.steps import StepRate
from scalelab.hardware.device import Device, OutOfMemory
from scalelab.testing.benchmarks import check_benchmark
from scalelab.train.engines.settings import SPEED_SETTINGS
from scalelab.train.engines.single import SingleEngine
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.spec import RunSpec

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
LIMIT_S = 1e5
"""Seconds: on a machine however busy."""
NO_SPEED = {
    "data", "data_digest", "seq_len", "model", "optimizer", "schedule", "batch_tokens", "n_steps", "evaluation",
    "seed",
}  # fmt: skip
"""Fields of a run that are no settings of its speed: another value is another experiment."""


SAME = correctness.compared("the same", 1.0, 1.0, 1.0)


@pytest.fixture
def losses_only(monkeypatch):
    """Only the comparisons with the reference: the others train more."""
    monkeypatch.setattr(correctness, "_against_uncompiled", lambda device, sized: SAME)
    monkeypatch.setattr(correctness, "_resumed", lambda bench: SAME)


@pytest.fixture
def resumed_only(monkeypatch):
    """Only the resumed run."""
    monkeypatch.setattr(correctness, "_against_uncompiled", lambda device, sized: SAME)
    monkeypatch.setattr(correctness, "_against_reference", lambda bench, sized: {})


def rows_of(name, bench, limit_s=LIMIT_S):
    return {row.name: row for row in BENCHMARKS[name]().rows(bench, time.monotonic() + limit_s)}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "several"])
def test_benchmarks_conform_on_a_cpu(name, cpu, monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", SETTINGS[:1])  # the others compile
    rows = check_benchmark(name, cpu, LIMIT_S)

    assert [row.reason for row in rows if row.status == "failed"] == []
    assert any(row.status == "measured" for row in rows) or name == "compile"


@pytest.mark.parametrize("name", ["correctness", "settings", "checkpoint", "validation"])
def test_benchmarks_conform_on_a_pretended_gpu(name, on, monkeypatch):
    """The timing of a CPU under a GPU's name means nothing; that the branches of a GPU run does."""
    monkeypatch.setattr(correctness, "LAST_STEP", 3)
    monkeypatch.setattr(
        correctness, "TOLERANCES", {2: correctness.TOLERANCES[2], 3: {"fp32": 1e-4, "bf16": 2e-3}}
    )
    timed = tuple(s for s in SETTINGS if s.name != "matmul: fp8")  # which takes a CPU seconds: below
    monkeypatch.setattr(settings, "SETTINGS", timed)
    rows = check_benchmark(name, on(), LIMIT_S)

    lacks = {"attention: flash3", "cuda_graphs: on"} if name == "settings" else set()  # nothing is compiled
    assert {row.name: row.reason for row in rows if row.status == "failed"} == {}
    assert {row.name for row in rows if row.status == "absent"} == lacks


def test_a_wrong_update_fails_the_comparison(on, monkeypatch, losses_only):
    """Rates that are a tenth too high, on the device only."""
    bench, update = on(), FlatOptimizer.update
    monkeypatch.setattr(
        SingleEngine,
        "update",
        lambda self, factor, norm: update(
            self.optimizer, factor * (1.0 if self.device.name == "reference" else 1.1), norm
        ),
    )
    rows = rows_of("correctness", bench)

    assert rows["fp32, after 12 steps"].status == "failed"
    assert "and should be" in rows["fp32, after 12 steps"].reason


def test_a_run_that_forgets_its_moments_fails_the_comparison(cpu, monkeypatch, resumed_only):
    restore = FlatOptimizer.restore

    def forgetful(self, weights, state):
        restore(
            self,
            weights,
            {k: torch.zeros_like(v) if k not in self.weights() else v for k, v in state.items()},
        )

    monkeypatch.setattr(FlatOptimizer, "restore", forgetful)

    assert rows_of("correctness", cpu)["resumed run"].status == "failed"


def test_a_loss_that_is_no_number_fails():
    row = correctness.compared("x", 3.0, float("nan"), 1.0)

    assert row.status == "failed"
    assert row.values["loss"] is None


def test_a_gpu_without_bf16_compares_fp32_only(on, losses_only):
    rows = rows_of("correctness", on(T4))

    assert rows["bf16, after 2 steps"].status == "absent"
    assert "does not multiply bf16" in rows["bf16, after 2 steps"].reason
    assert rows["fp32, after 2 steps"].status == "measured"


def test_an_mfu_above_one_is_a_failure(on, monkeypatch):
    rows = rows_of("throughput", on())
    assert all(0 < row.values["mfu"] < 1 for row in rows.values())

    monkeypatch.setattr(type(H100), "peak_flops_per_s", 1.0)
    rows = rows_of("throughput", on())
    assert {row.status for row in rows.values()} == {"failed"}
    assert "cannot be: the peak of NVIDIA H100 80GB HBM3 (h100: 9.89e14 FLOP/s)" in rows["4k"].reason


@pytest.mark.parametrize(
    ("size", "mfu"), [(1e7, 0.25), (3e7, 0.25), (1e8, 0.4), (3.5e8, 0.5), (3e9, 0.5), (1e6, None)]
)
def test_goals_are_those_of_h100_and_h200(size, mfu):
    assert throughput.goal(H100, size) == mfu
    assert throughput.goal(replace(H100, name="NVIDIA H200"), size) == mfu
    assert throughput.goal(replace(H100, name="NVIDIA A100-SXM4-80GB"), size) is None


def test_what_does_not_fit_is_absent_with_the_memory_that_it_needs(on):
    small = replace(H100, memory_bytes=2 * 10**5)
    rows = rows_of("throughput", on(small))

    assert rows["4k"].status == "measured"
    assert rows["12k"].status == "absent"
    assert "of memory, and a run may take 160 kB" in rows["12k"].reason


def test_memory_that_is_not_there_costs_one_row(on, monkeypatch):
    gradient = SingleEngine._gradient

    def full(self, batch):
        if self.spec.model.size(32).n_params_matmul > 1e4:
            raise OutOfMemory("CUDA out of memory. Tried to allocate")
        return gradient(self, batch)

    monkeypatch.setattr(SingleEngine, "_gradient", full)
    rows = rows_of("throughput", on())

    assert [row.status for row in rows.values()] == ["measured", "absent"]
    assert rows["12k"].reason == "one window of 32 tokens does not fit in the device's memory"


def test_an_error_of_a_kernel_is_a_failed_row_and_the_next_is_measured(on, monkeypatch):
    norm = SingleEngine.norm

    def broken(self):
        if self.spec.model.size(32).n_params_matmul < 1e4:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        return norm(self)

    monkeypatch.setattr(SingleEngine, "norm", broken)
    rows = rows_of("throughput", on())

    assert rows["4k"].reason == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert [row.status for row in rows.values()] == ["failed", "measured"]


def test_every_setting_of_speed_has_a_row_for_each_value():
    changed = {name for setting in SETTINGS for name in setting.with_it}
    names = [f"{s.field}: {value}" for s in SPEED_SETTINGS for value in s.values[1:]]

    assert changed | NO_SPEED == set(RunSpec.model_fields)
    assert [setting.name for setting in SETTINGS] == names
    assert {"precision: bf16", "compile: whole", "attention: flash3", "cuda_graphs: on", "matmul: fp8"} < set(
        names
    )


def test_a_value_is_compared_with_the_one_before_it():
    found = {s.name: (s.without, s.with_it) for s in SETTINGS}

    assert found["compile: whole"] == ({"compile": "block"}, {"compile": "whole"})
    assert found["cross_entropy: chunked"] == ({"cross_entropy": "plain"}, {"cross_entropy": "chunked"})


def test_a_setting_that_the_device_cannot_have_is_absent_with_what_it_lacks(cpu, monkeypatch):
    lacking = {"attention: flash3", "cuda_graphs: on", "matmul: fp8"}
    few = tuple(s for s in SETTINGS if s.name in {*lacking, "cross_entropy: chunked"})
    monkeypatch.setattr(settings, "SETTINGS", few)
    rows = rows_of("settings", cpu)

    assert rows["cuda_graphs: on"].reason == "CUDA graphs need a GPU"
    assert "FlashAttention-3" in rows["attention: flash3"].reason
    assert "products in fp8 need an NVIDIA GPU of compute capability 8.9" in rows["matmul: fp8"].reason
    assert {rows[name].status for name in lacking} == {"absent"}
    assert rows["cross_entropy: chunked"].status == "measured"


def test_sides_that_are_one_run_on_the_device_are_measured_once(on, monkeypatch):
    measured = []

    def measure(bench, sized, ends):
        measured.append(sized.spec)
        return StepRate(1.0, None, 1.0, 1, None), 3.0

    monkeypatch.setattr(settings, "_measure", measure)
    rows = rows_of("settings", on(compiled=True))

    assert [row.status for row in rows.values() if row.name != "attention: flash3"] == ["measured"] * 6
    # fp32, uncompiled, whole, chunked, without graphs, fp8; and the default, which is a side of every row
    assert len(measured) == 7


def test_fp8_is_measured_where_the_device_has_it_and_may_change_the_loss_a_little_more(on):
    timed = tuple(s for s in SETTINGS if s.name == "matmul: fp8")
    (row,) = SettingsBenchmark(timed).rows(on(batch_tokens=32), time.monotonic() + LIMIT_S)

    assert (row.status, row.reason) == ("measured", "")
    assert 0 < row.values["loss_difference"] < settings.ROUGH_TOLERANCE
    assert {s.tolerance for s in SETTINGS if s not in timed} == {settings.TOLERANCE}


def test_a_setting_that_changes_the_loss_fails(on):
    setting = TimedSetting("seed", {"seed": 0}, {"seed": 1}, tolerance=1e-6)
    (row,) = SettingsBenchmark((setting,)).rows(on(), time.monotonic() + LIMIT_S)

    assert row.status == "failed"
    assert "without it" in row.reason
    assert row.values["gain"] > 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (({"compile": "off"}, {"compile": "faster"}), "compile: faster is refused: "),
        (({"precision": "fp32"}, {"precision": "bf16"}), "precision is bf16, and Tesla T4"),
    ],
)
def test_a_setting_that_the_device_or_the_program_lacks_is_absent(on, fields, reason):
    (row,) = SettingsBenchmark((TimedSetting("x", *fields),)).rows(on(T4), time.monotonic() + LIMIT_S)

    assert row.status == "absent"
    assert reason in row.reason


def test_a_setting_changes_something():
    with pytest.raises(ValueError, match="same fields"):
        TimedSetting("x", {"compile": "off"}, {"precision": "bf16"})


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>", True),
        ("fmha_cutlassB_bf16_aligned_64x64_k128_sm80", True),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", True),
        ("attn_fwd", True),
        ("triton_poi_fused__scaled_dot_product_flash_attention_backward_3", False),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN", False),
        ("aten::scaled_dot_product_attention", True),
        ("aten::_scaled_dot_product_flash_attention", False),
        ("_ShortAttention", True),
        ("autograd::engine::evaluate_function: _ShortAttentionBackward", False),
    ],
)
def test_kernels_of_attention_are_known_by_name(name, is_one):
    assert is_attention(name) == is_one


def test_the_share_of_attention_is_that_of_its_kernels(cpu):
    sized = cpu.sizes()[0]
    kernels = [
        ProfiledName("flash_fwd_kernel", 1.0),
        ProfiledName("flash_bwd", 2.0),
        ProfiledName("gemm", 7.0),
    ]
    row = attention_row(sized, kernels, 10.0, 0.1)

    assert row.values["time_share"] == pytest.approx(0.3)
    size = sized.spec.model.size(32)
    attention = size.flops_per_token - 6 * size.n_params_matmul
    assert row.values["flops_share"] == pytest.approx(attention / size.flops_per_token)
    assert attention_row(sized, kernels[2:], 10.0, 0.1).status == "absent"


def test_the_share_of_validation_is_one_of_the_whole():
    assert validation_share(4.0, 96.0) == pytest.approx(0.04)


def test_compiling_is_measured_cold_and_warm(on, monkeypatch):
    calls = []

    def seconds(spec, cache, ends):
        calls.append((spec.compile, cache.name))
        return 10.0 / len(calls)

    monkeypatch.setattr(compiling, "compile_seconds", seconds)
    monkeypatch.setattr(compiling, "compile_note", lambda device, asked: "")
    rows = rows_of("compile", on())

    assert calls == [("block", "compiled-block")] * 2 + [("whole", "compiled-whole")] * 2
    assert rows["block"].values == {"cold_s": 10.0, "warm_s": 5.0}
    assert rows_of("compile", on(), -1.0)["block"].reason == "no time is left for a cold start"


def test_several_runs_are_compared_with_one(on, monkeypatch):
    monkeypatch.setattr(
        several, "rates_together", lambda spec, count, threads, ends: [100.0 / count**0.5] * count
    )
    rows = rows_of("several", on())

    assert [row.values["gain"] for row in rows.values()] == pytest.approx([1.0, 2**0.5, 2.0])
    assert rows_of("several", on(replace(H100, memory_bytes=10**6)))["4 x 4k"].status == "absent"


def test_runs_side_by_side_train_in_processes_of_their_own(cpu):
    rows = rows_of("several", cpu)

    assert rows["1 x 4k"].status == "measured"
    assert rows["1 x 4k"].values["gain"] == 1.0
    assert rows["4 x 4k"].status == ("absent" if torch.get_num_threads() < 4 else "measured")


def test_the_device_of_the_reference_is_a_cpu(on):
    """Even where a GPU is there."""
    assert Device("cpu", "reference", None).torch.type == "cpu"
