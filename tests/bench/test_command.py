"""The command: time limits, processes, records, tables and exit statuses."""

import json
import time
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from scalelab import registry
from scalelab.bench import BENCHMARKS, runner
from scalelab.bench.base import BenchColumn, BenchRow, absent, failed
from scalelab.bench.child import ChildError, ChildProcess
from scalelab.bench.members.checkpoint import CheckpointBenchmark
from scalelab.bench.record import BenchRecord, DeviceRecord
from scalelab.bench.runner import START_S, BenchResult, chosen, limit
from scalelab.cli.main import main
from scalelab.report.bench.document import device_document, result_document, summary_document
from scalelab.report.render.terminal import render_terminal

H200 = DeviceRecord(
    "cuda",
    "NVIDIA H200",
    150 * 10**9,
    "9.0",
    "bf16",
    "570.86",
    "2.13.0",
    "12.8",
    "3.12.1",
    16,
    9.89e14,
    "h200: x",
)
CPU = DeviceRecord(
    "cpu", "A CPU @ 2 GHz", 10**10, None, "fp32", None, "2.13.0", None, "3.12.1", 2, None, None
)
RESULT = BenchResult(
    "throughput",
    "Training steps",
    "N is a count.",
    (
        BenchColumn("n_params", "N", "parameters", "computed"),
        BenchColumn("mfu", "MFU", "share"),
        BenchColumn("unknown", "unknown", "bytes"),
    ),
    60.0,
    12.0,
    (
        BenchRow("10M", "measured", {"n_params": 1.1e7, "mfu": 0.256, "unknown": None}),
        failed("30M", "an MFU of 1.20 cannot be", {"n_params": 3e7, "mfu": 1.2}),
        absent("1B", "it needs 90 GB"),
        absent("3B", "it needs 90 GB"),
    ),
)


GRACE_S = {"hang": 0.0, "crash": 600.0}
"""Seconds that the end of a process is waited for: of one that hangs none."""


def record(device=H200, results=(RESULT,)):
    return BenchRecord(
        datetime(2026, 11, 29, tzinfo=UTC), {"scalelab": "1", "commit": "c"}, device, 8.0, 90.0, results
    )


def text(document):
    return render_terminal(document)


def test_a_table_shows_values_reasons_and_kinds_in_80_columns():
    shown = text(result_document(RESULT))

    assert max(map(len, shown.splitlines())) <= 80
    assert "25.6%" in shown
    assert "30M (failed)" in shown
    assert "failed: 30M: an MFU of 1.20 cannot be" in shown
    assert "absent: 1B, 3B: it needs 90 GB" in shown
    assert "All values are measured (N: computed)." in shown
    assert "unknown" not in shown


def test_the_device_is_shown_with_the_source_of_its_peak():
    assert "9.89e14 FLOP/s (literature), h200: x" in text(device_document(H200))
    assert "unknown, so no MFU is reported" in text(device_document(CPU))


def test_failures_are_counted():
    assert "4 rows in 1 min 30 s, 2 absent, 1 FAILED." in text(summary_document(record()))
    assert record().n_failed == 1
    assert "0 failed." in text(summary_document(record(results=())))


def test_a_record_has_device_date_units_and_kinds():
    found = json.loads(json.dumps(record().to_json(), allow_nan=False))

    assert found["schema"] == 1
    assert found["date"] == "2026-11-29T00:00:00+00:00"
    assert found["device"]["driver"] == "570.86"
    (benchmark,) = found["benchmarks"]
    assert benchmark["columns"]["n_params"] == {"unit": "parameters", "kind": "computed"}
    assert benchmark["rows"][2] == {
        "name": "1B",
        "status": "absent",
        "reason": "it needs 90 GB",
        "values": {},
    }
    assert record().file_name == "nvidia-h200-2026-11-29.json"
    assert record(CPU).file_name == "a-cpu-2-ghz-2026-11-29.json"


@pytest.mark.parametrize(
    "bad",
    [
        ("x", "done", {}, ""),
        ("x", "measured", {}, "why"),
        ("x", "failed", {}, " "),
        ("x", "absent", {"a": 1.0}, "why"),
        ("x", "measured", {"a": float("nan")}, ""),
    ],
)
def test_a_row_is_measured_or_has_a_reason(bad):
    with pytest.raises(ValueError, match=r"status|reason|absent|is nan"):
        BenchRow(*bad)


def test_limits_share_what_is_left():
    seconds = {"a": 60.0, "b": 30.0, "c": 30.0}

    assert limit("a", ["b", "c"], 1000.0, seconds) == 60.0
    assert limit("a", ["b", "c"], 60.0 + 3 * START_S, seconds) == pytest.approx(30.0)
    assert limit("c", [], 20.0 + START_S, seconds) == pytest.approx(20.0)
    assert limit("c", [], START_S, seconds) == 0.0


def test_benchmarks_are_chosen_by_name():
    assert chosen([]) == list(BENCHMARKS)
    assert chosen(["throughput", "correctness"]) == ["correctness", "throughput"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--only", "speed"], "unknown benchmark 'speed'"),
        (["--minutes", "0", "--device", "cpu"], "a length of 0 minutes is none"),
        (["--device", "cuda"], "torch finds no GPU that it can use"),
    ],
)
def test_wrong_usage_is_refused_with_a_fix(argv, words, capsys, monkeypatch):
    monkeypatch.setattr("scalelab.bench.record.describe_device", lambda: CPU)

    assert main(["bench", *argv]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "fix:" in shown


@pytest.fixture
def adds(monkeypatch):
    """A function that makes a package add one benchmark to this process."""

    def add(place):
        points = EntryPoints([EntryPoint("mine", place, "scalelab.benchmarks")])
        monkeypatch.setattr(registry, "_installed", lambda: points)
        monkeypatch.setattr("scalelab.bench.record.describe_device", lambda: CPU)

    return add


def test_a_benchmark_that_cannot_be_used_is_a_failed_row(adds, capsys):
    adds("no_such_package:Benchmark")

    assert main(["bench", "--only", "mine"]) == 1
    assert "the package an unknown package cannot be used" in " ".join(capsys.readouterr().out.split())


def test_a_process_gets_its_arguments_and_its_environment():
    with ChildProcess("bench_children:answer", 1, "a", environ={"SCALELAB_TEST": "x"}) as child:
        assert child.receive(time.monotonic() + 600) == ("x", (1, "a"))
        with pytest.raises(ChildError, match="its process ended with exit status 0"):
            child.receive(time.monotonic() + 600)


@pytest.mark.parametrize(
    ("function", "status", "words"),
    [
        ("hang", "absent", "it did not end within"),
        ("crash", "failed", "its process ended with signal 6; the rows that are not here are not measured"),
    ],
)
def test_a_process_that_ends_or_hangs_keeps_the_rows_that_it_sent(
    tmp_path, monkeypatch, function, status, words
):
    started = []

    def start(place, *arguments):
        """A process that has sent its first row, however long its start took."""
        started.append(ChildProcess(f"bench_children:{function}", *arguments))
        assert started[-1]._connection.poll(600)
        return started[-1]

    monkeypatch.setattr(runner, "ChildProcess", start)
    monkeypatch.setattr(runner, "GRACE_S", GRACE_S[function])
    monkeypatch.setattr(runner, "START_S", 0.0)
    first, last = runner._rows("throughput", tmp_path / "x", 0.1, time.monotonic() + 600)

    assert first.name == "first"
    assert (last.name, last.status) == ("benchmark", status)
    assert words in last.reason
    assert not started[0]._process.is_alive()


def test_the_command_runs_in_processes_and_writes_its_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(CheckpointBenchmark, "seconds", 600.0)  # on a machine however busy
    monkeypatch.setattr(runner, "START_S", 600.0)
    argv = ["bench", "--device", "cpu", "--only", "checkpoint", "--minutes", "30", "--out", str(tmp_path)]
    assert main(argv) == 0

    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["device"]["kind"] == "cpu"
    assert [b["name"] for b in found["benchmarks"]] == ["checkpoint"]
    assert found["benchmarks"][0]["rows"][0]["values"]["written_s"] > 0
    assert f"record: {path}" in capsys.readouterr().out


def test_without_json_and_out_no_file_is_left(tmp_path, monkeypatch, adds, capsys):
    adds("no_such_package:Benchmark")
    monkeypatch.chdir(tmp_path)
    main(["bench", "--only", "mine"])

    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_command_keeps_its_tables_and_writes_nothing(adds, monkeypatch, tmp_path, capsys):
    adds("no_such_package:Benchmark")

    def interrupted(*args):
        yield RESULT
        raise KeyboardInterrupt

    monkeypatch.setattr("scalelab.bench.runner.run_benchmarks", interrupted)

    assert main(["bench", "--out", str(tmp_path)]) == 130
    assert "25.6%" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
