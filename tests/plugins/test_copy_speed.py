"""A benchmark of another package, by its suite and by the command line."""

import json

from scalelab.bench.workbench import Workbench
from scalelab.cli.main import main
from scalelab.hardware.device import find_device
from scalelab.testing.benchmarks import check_benchmark


def test_it_keeps_the_contract(examples, tmp_path):
    rows = check_benchmark("copy_speed", Workbench(find_device(), tmp_path), 30.0)

    assert [row.name for row in rows] == ["1 MB", "64 MB"]


def test_the_command_measures_it_in_a_process_of_its_own(examples, tmp_path, capsys):
    path = tmp_path / "record.json"
    assert main(["bench", "--only", "copy_speed", "--json", str(path)]) == 0

    (found,) = json.loads(path.read_text())["benchmarks"]
    assert found["name"] == "copy_speed"
    assert found["columns"] == {"bytes_per_s": {"unit": "bytes/s", "kind": "measured"}}
    assert all(row["values"]["bytes_per_s"] > 0 for row in found["rows"])
    assert "64 MB" in capsys.readouterr().out
