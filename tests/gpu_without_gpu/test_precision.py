"""The precision that a run gets on GPUs with and without bf16, by their reported properties."""

from types import SimpleNamespace

import pytest
from pretended_gpus import A100, H100, MI50, MI300X, MIG, P100, T4, V100, pretend, pretend_to_start

from scalelab.config import parse_yaml
from scalelab.errors import LaunchError, RunError
from scalelab.hardware.device import find_device, probe
from scalelab.hardware.layout import Layout
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.settings import LaunchConfig
from scalelab.launch import final_run
from scalelab.launch.final_run import FinalRun, launch
from scalelab.launch.sweep import run_sweep
from scalelab.sweep.file import SweepFile
from scalelab.train.memory import run_bytes, run_memory
from scalelab.train.run_directory import RunDir

PRECISIONS = [
    (V100, "fp32"),
    (T4, "fp32"),
    (P100, "fp32"),
    (A100, "bf16"),
    (H100, "bf16"),
    (MIG, "bf16"),
    (MI300X, "bf16"),
    (MI50, "fp32"),
]


@pytest.mark.parametrize(("gpu", "precision"), PRECISIONS, ids=lambda x: getattr(x, "name", x))
def test_auto_is_bf16_only_where_the_gpu_multiplies_it(monkeypatch, gpu, precision):
    pretend(monkeypatch, gpu)
    device = find_device()

    assert device.precision("auto") == precision
    assert device.precision("fp32") == "fp32"
    assert device.precision_note("fp32") == ""
    assert (device.precision_note("auto") == "") == (precision == "bf16")


@pytest.mark.parametrize(
    ("gpu", "words"), [(T4, "Tesla T4 (compute capability 7.5)"), (MI50, "MI50 (architecture gfx906)")]
)
def test_bf16_is_refused_and_auto_explained_by_name_and_capability(monkeypatch, gpu, words):
    pretend(monkeypatch, gpu)

    with pytest.raises(RunError) as refusal:
        find_device().precision("bf16")
    assert words in refusal.value.problem
    assert "`precision: auto`" in refusal.value.fix
    assert words in find_device().precision_note("auto")


def test_every_gpu_is_reported_with_its_precision(monkeypatch):
    pretend(monkeypatch, T4, A100)

    assert [(d["name"], d["auto"]) for d in probe()] == [(T4.name, "fp32"), (A100.name, "bf16")]


@pytest.mark.parametrize(
    ("asked", "auto", "precision"),
    [("auto", "fp32", "fp32"), ("auto", "bf16", "bf16"), ("fp32", "bf16", "fp32"), ("bf16", "bf16", "bf16")],
)
def test_memory_of_a_run_is_that_of_its_precision_on_the_device(tiny_spec, asked, auto, precision):
    spec = tiny_spec(precision=asked)
    rows = spec.batch_tokens // spec.seq_len

    assert run_memory(spec, "cuda", 10**12, auto) == run_bytes(spec, precision, rows, "cuda", 10**12)


def job_of(folder, precision, processes=1):
    return Job("j", RunDir(folder / "j"), "run", resources=JobResources(processes, precision=precision))


@pytest.mark.parametrize(
    ("gpus", "processes", "able"),
    [
        ([T4], 1, False),
        ([V100] * 2, 2, False),
        ([A100, T4], 1, True),
        ([A100, T4], 2, False),
        ([A100] * 2, 2, True),
    ],
    ids=str,
)
def test_a_job_in_bf16_is_refused_where_too_few_gpus_multiply_it(
    monkeypatch, tmp_path, gpus, processes, able
):
    pretend_to_start(monkeypatch, *gpus)
    executor = LocalConfig().start()
    for precision in ("auto", "fp32"):
        executor.check(job_of(tmp_path, precision, processes))

    if able:
        executor.check(job_of(tmp_path, "bf16", processes))
    else:
        with pytest.raises(LaunchError, match=gpus[-1].name) as refused:
            executor.check(job_of(tmp_path, "bf16", processes))
        assert "precision: auto" in refused.value.fix


def test_a_job_in_bf16_goes_to_a_gpu_that_multiplies_it(monkeypatch, tmp_path):
    processes = pretend_to_start(monkeypatch, T4, A100)
    executor = LocalConfig(max_runs_per_gpu=1).start()
    executor.submit(job_of(tmp_path, "bf16"))

    assert [process.environ["CUDA_VISIBLE_DEVICES"] for process in processes] == ["1"]
    assert not executor.has_room(job_of(tmp_path, "bf16"))
    assert executor.has_room(job_of(tmp_path, "auto"))


def test_the_executor_of_this_process_refuses_it_likewise(monkeypatch, tmp_path):
    pretend(monkeypatch, T4)
    InlineExecutor().check(job_of(tmp_path, "auto"))

    with pytest.raises(RunError, match="Tesla T4"):
        InlineExecutor().check(job_of(tmp_path, "bf16"))


SWEEP = """
name: t
question: q
prediction: p
recipe:
  data: {source: {kind: text, paths: ["TEXT/*.txt"]}, tokenizer: {kind: bytes}, validation: 0.2, epochs: 50}
  seq_len: 32
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8}
  optimizer: {lr: 3e-3}
  batch: {min_tokens: 256, max_tokens: 512}
  evaluation: {tokens: 4096, curve_tokens: 1024}
  precision: bf16
design: {kind: isoflop, budgets: [1e10], sizes_per_budget: 3, span: 4, tokens_per_param: 14}
"""


def test_a_sweep_in_bf16_is_refused_before_anything_is_timed_written_or_started(
    monkeypatch, tmp_path, tiny_text, cache
):
    processes = pretend_to_start(monkeypatch, T4)
    file = SweepFile.parse(parse_yaml(SWEEP.replace("TEXT", str(tiny_text)), "t.yaml"))

    with pytest.raises(LaunchError, match=r"precision is bf16(.|\n)*Tesla T4"):
        run_sweep(file, tmp_path / "runs")

    assert processes == []
    written = {path.name for path in (tmp_path / "runs").rglob("*")}
    assert not written & {"sweep.json", "spec.yaml", "log.jsonl"}


def test_a_launch_in_bf16_is_refused_before_the_ledger_is_written(monkeypatch, tmp_path, tiny_spec):
    processes = pretend_to_start(monkeypatch, T4)
    monkeypatch.setattr(final_run, "_corpus", lambda plan: None)
    entered = []
    monkeypatch.setattr(final_run, "_record", lambda final, root: entered.append(final))
    plan = SimpleNamespace(spec=tiny_spec(precision="bf16"), name="p")
    final = FinalRun(plan, None, Layout(), RunDir(tmp_path / "runs" / "p" / "r"), None, None, None)

    with pytest.raises(LaunchError, match=r"precision is bf16(.|\n)*Tesla T4"):
        launch(final, tmp_path / "runs", LaunchConfig())

    assert (processes, entered) == ([], [])
