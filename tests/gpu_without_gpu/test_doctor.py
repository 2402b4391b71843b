"""`scalelab doctor` on this CPU, on pretended GPUs, and on machines with something wrong."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from pretended_gpus import A100, H100, MI50, MI300X, MIG, T4, V100, PretendedGpu, pretend

from scalelab import registry
from scalelab.cli.main import main
from scalelab.hardware import CHECKS, compiler
from scalelab.hardware.checks import disk
from scalelab.hardware.checks.capability import has_kernels
from scalelab.hardware.device import Device
from scalelab.hardware.doctor import run_checks
from scalelab.hardware.finding import Finding, problem, warning
from scalelab.hardware.machine import Machine
from scalelab.hardware.nvidia_smi import SmiReport
from scalelab.testing.checks import check_check

GIB = 2**30
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 03:07:13 UTC 2025"
IDLE = SmiReport(H100.uuid, "570.86.15", 0.0, 1980.0, 700.0, 700.0, "Default")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine with these GPUs, files below its root, and reports of nvidia-smi."""

    def make(*gpus, files=(), smi=(IDLE,), build="12.8"):
        pretend(monkeypatch, *gpus)
        if not gpus:
            monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(
            "scalelab.hardware.machine.smi_reports", lambda: (smi, "" if smi else "no answer")
        )
        monkeypatch.setattr(compiler, "find_spec", lambda name: object())
        root = tmp_path / "root"
        for name, text in dict(files).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "runs").mkdir(exist_ok=True)
        return Machine(tmp_path / "runs", root)

    monkeypatch.setattr(disk, "write_speed", lambda place: 1e9)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make


def found(name, machine) -> Finding:
    return CHECKS[name](machine)


@pytest.mark.parametrize(
    ("gpus", "not_ok", "words"),
    [
        ([V100], {"capability": "problem", "precision": "warning", "attention": "warning"}, "1 x Tesla V100"),
        ([T4], {"precision": "warning", "attention": "warning"}, "1 x Tesla T4"),
        ([A100], {}, "1 x NVIDIA A100-SXM4-80GB"),
        ([H100], {}, "1 x NVIDIA H100 80GB HBM3"),
        ([H100] * 8, {}, "8 x NVIDIA H100 80GB HBM3"),
        ([MIG], {"devices": "warning"}, "MIG"),
        ([MI300X], {}, "1 x AMD Instinct MI300X"),
        (
            [MI50],
            {"devices": "warning", "capability": "problem", "precision": "warning", "attention": "warning"},
            "MI50",
        ),
        ([H100, A100], {"devices": "warning"}, "1 x NVIDIA H100 80GB HBM3, 1 x NVIDIA A100"),
    ],
    ids=lambda x: f"{len(x)}x{x[0].name}" if isinstance(x, list) else "",
)
def test_pretended_gpus_are_judged_by_their_properties(machine, gpus, not_ok, words):
    here = machine(*gpus, files={"proc/driver/nvidia/version": DRIVER})
    names = (
        "driver",
        "devices",
        "capability",
        "precision",
        "compiler",
        "attention",
        "communication",
        "clocks",
    )
    results = {r.name: r.finding for r in run_checks(here) if r.name in names}

    assert {name: f.status for name, f in results.items() if f.status != "ok"} == not_ok
    assert words in results["devices"].value
    assert ("clocks" in results) == (not gpus[0].gcnArchName)


def test_values_of_a_gpu_are_in_the_lines(machine):
    here = machine(H100, files={"proc/driver/nvidia/version": DRIVER})

    assert found("driver", here).value.startswith("NVIDIA 570.86.15, torch ")
    assert found("driver", here).value.endswith(" for CUDA 12.8")
    assert found("capability", here).value == "compute capability 9.0"
    precision = "bf16, with fp32 master weights and sums; fp8 with `matmul: fp8`"
    assert found("precision", here).value == precision
    assert found("attention", here).value == (
        "flash, cudnn, efficient, math; FlashAttention-3 is not installed, and runs use torch's kernel"
    )
    assert found("communication", here).value == "NCCL 2.27.5"
    assert found("clocks", here).value == "up to 1980 MHz"
    assert "each GPU 85.9 GB" in found("memory", here).value
    assert "a checkpoint of 1B parameters takes about 12 s" in found("disk", here).value


@pytest.mark.parametrize(
    ("files", "build", "environ", "status", "words"),
    [
        ({}, None, {}, "ok", "no GPU"),
        ({"dev/nvidia0": ""}, None, {}, "problem", "is built for CPUs only"),
        ({"dev/nvidia0": ""}, "12.8", {}, "problem", "The NVIDIA driver on your system is too old"),
        ({"dev/nvidia0": ""}, "12.8", {"CUDA_VISIBLE_DEVICES": ""}, "warning", "CUDA_VISIBLE_DEVICES=''"),
        ({"dev/kfd": ""}, None, {}, "problem", "dev/kfd"),
        (
            {"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x030200\n"},
            "12.8",
            {},
            "warning",
            "NVIDIA GPU on the PCI bus",
        ),
        (
            {"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x020000\n"},
            "12.8",
            {},
            "ok",
            "no GPU",
        ),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_explained(machine, monkeypatch, files, build, environ, status, words):
    import warnings

    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    here = machine(files=files, build=build)

    def unavailable():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)

    assert found("driver", here).status == status
    assert words in found("driver", here).value


@pytest.mark.parametrize(
    ("name", "report", "words"),
    [
        ("memory", {"used_bytes": 40 * GIB}, "GPU 0 has 42.9 GB of 85.9 GB in use"),
        ("clocks", {"power_limit_w": 400.0}, "GPU 0 is limited to 400 W of 700 W"),
        ("devices", {"compute_mode": "Exclusive_Process"}, "compute mode Exclusive_Process"),
    ],
)
def test_reports_of_nvidia_smi_become_warnings(machine, name, report, words):
    from dataclasses import replace

    here = machine(H100, smi=(replace(IDLE, **report),))

    assert found(name, here).status == "warning"
    assert words in found(name, here).value
    assert found(name, machine(H100)).status == "ok" or name == "memory"


def test_a_report_of_another_gpu_is_not_taken_for_this_one(machine):
    other = SmiReport("another", "1", 79.0 * GIB, 1.0, 1.0, 2.0, "Prohibited")
    here = machine(H100, smi=(other,))

    assert "in use" not in found("memory", here).value
    assert found("devices", here).status == "ok"
    assert "does not list" in found("clocks", here).value


@pytest.mark.parametrize(
    ("script", "why", "n"),
    [
        ("exec sleep 30", "did not answer within 0.3 s", 0),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "failed: NVIDIA-SMI has failed", 0),
        ("echo 'GPU-ab, 570.1, 512, 1980, 700.00, 700.00, Default'", "", 1),
        ("echo 'GPU-ab, 570.1, [N/A], [N/A], [N/A], [N/A], [N/A]'", "", 1),
    ],
)
def test_nvidia_smi_is_read_and_its_time_is_limited(tmp_path, monkeypatch, script, why, n):
    from scalelab.hardware import nvidia_smi

    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(nvidia_smi, "LIMIT_S", 0.3 if "sleep" in script else 20.0)
    reports, reason = nvidia_smi.smi_reports()

    assert why in reason
    assert len(reports) == n
    if n:
        assert reports[0].uuid == "ab"
        assert reports[0].used_bytes == (None if "N/A" in script else 512 * 2**20)


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((8, 6), "sm_80", True),
        ((8, 0), "sm_86", False),
        ((9, 0), "sm_80", False),
        ((9, 0), "compute_80", True),
        ((7, 5), "compute_80", False),
        ((9, 0), "sm_90a", True),
        ((12, 1), "sm_120a", False),
        ((12, 1), "sm_120f", True),
        ((10, 3), "compute_90a", False),
        ((9, 0), "gfx942", False),
    ],
)
def test_kernels_run_on_the_capabilities_of_cuda_s_rules(capability, built, fits):
    assert has_kernels(Device("cuda", "a GPU", None, capability), [built]) == fits


def test_missing_nccl_is_a_problem_for_several_gpus_only(machine, monkeypatch):
    for gpus, status in (([H100], "warning"), ([H100] * 8, "problem")):
        here = machine(*gpus)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
        assert found("communication", here).status == status


def test_small_shared_memory_is_a_warning_for_several_gpus(machine, monkeypatch):
    from scalelab.hardware.checks import communication

    here = machine(H100, H100)
    (here.root / "dev/shm").mkdir(parents=True)
    monkeypatch.setattr(communication.shutil, "disk_usage", lambda path: type("", (), {"total": 64 << 20}))

    assert "/dev/shm has 67.1 MB" in found("communication", here).value
    assert "--shm-size" in found("communication", here).fix


def test_switched_off_kernels_of_attention_are_not_listed(machine, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "flash_sdp_enabled", lambda: False)
    finding = found("attention", machine(A100))

    assert finding.status == "warning"
    assert finding.value.startswith("cudnn, efficient, math; no FlashAttention on")


def test_a_machine_without_a_compiler_is_a_warning_with_the_packages(machine, monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler.compiler_obstacle.cache_clear()
    finding = found("compiler", machine(H100))
    compiler.compiler_obstacle.cache_clear()

    assert finding.status == "warning"
    assert "no C compiler" in finding.value
    assert "apt-get install g++ python3-dev" in finding.fix


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, "warning", "limited to the time of 0.5"),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, "ok", "cores"),
        (
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            "warning",
            "0.5",
        ),
        (
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "1"},
            "ok",
            "cores",
        ),
    ],
)
def test_cores_are_those_of_the_control_group(machine, files, status, words):
    assert found("processor", machine(files=files)).status == status
    assert words in found("processor", machine(files=files)).value


def test_host_memory_is_that_of_the_control_group(machine):
    files = {
        "proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB",
        "sys/fs/cgroup/memory.max": str(4 * 10**9),
        "sys/fs/cgroup/memory.current": str(3 * 10**9),
    }
    assert found("memory", machine(files={"proc/meminfo": files["proc/meminfo"]})).value.startswith(
        "host 61.4 GB free of 65.5 GB"
    )
    assert found("memory", machine(files=files)) == warning(
        "host 1 GB free of 4 GB", "have 2 GB free: end other programs, or raise the job's limit"
    )


def test_a_file_in_the_place_of_the_runs_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")

    assert found("runs", Machine(tmp_path / "file" / "runs")).status == "problem"
    assert found("runs", Machine(tmp_path / "a" / "b")).status == "ok"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_disk_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)

    for name in ("runs", "disk"):
        finding = found(name, Machine(tmp_path))
        assert (finding.status, "Permission denied" in finding.value) == ("problem", True)
        assert "SCALELAB_RUNS" in finding.fix


@pytest.mark.parametrize(("free", "status"), [(5e8, "problem"), (5e9, "warning"), (5e10, "ok")])
def test_little_space_is_reported(machine, monkeypatch, free, status):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: type("", (), {"free": free}))

    assert found("disk", machine()).status == status


def test_a_slow_disk_is_measured_in_bounded_time(tmp_path, monkeypatch):
    """A disk of 2 MB/s: the second file would end after 0.66 s, the third after 2.7 s."""
    clock = [0.0]
    written = []

    def flush(handle):
        written.append(os.fstat(handle).st_size)
        clock[0] += written[-1] / 2e6

    monkeypatch.setattr(disk.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(disk.os, "fsync", flush)

    assert disk.write_speed(tmp_path) == pytest.approx(2e6)
    assert written == [2**18, 2**20]
    assert clock[0] < 1
    assert list(tmp_path.iterdir()) == []


def test_versions_out_of_range_are_problems(monkeypatch, tmp_path):
    from scalelab.hardware.checks import versions

    here = Machine(tmp_path)
    assert found("python", here).status == found("torch", here).status == "ok"
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.9.1")
    assert found("python", here).value == "3.9.1, and scalelab needs >=3.11"
    monkeypatch.setattr(torch, "__version__", "2.4.0+cu121")
    assert found("torch", here).value.endswith("; scalelab needs >=2.11")
    assert found("torch", here).fix == "pip install 'torch>=2.11'"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert found("torch", here).value.startswith("torch cannot be imported: ")


def test_missing_and_unfit_packages_are_named(monkeypatch, tmp_path):
    from packaging.requirements import Requirement

    from scalelab.hardware.checks import packages

    wanted = ["numpy>=1", "rich>=13", 'trl<2,>=1; extra == "post"', 'pytest>=99; extra == "dev"']
    monkeypatch.setattr(packages, "requirements", lambda: [Requirement(text) for text in wanted])
    there = {"numpy": "2.0", "rich": "14.0", "pytest": "8"}
    monkeypatch.setattr(packages, "installed_version", lambda name: there.get(name))
    here = Machine(tmp_path)

    value = found("packages", here).value
    assert value.startswith("2 required packages are installed; optional: none; not installed: post (")
    there["trl"] = "2.1"
    assert found("packages", here) == warning("trl 2.1 (needed: <2,>=1)", "pip install 'trl<2,>=1'")
    there["numpy"] = "0.9"
    assert found("packages", here).status == "problem"
    del there["rich"]
    assert found("packages", here) == problem("not installed: rich", "pip install rich")


def test_a_server_of_mlflow_is_asked_for_a_connection(monkeypatch, tmp_path):
    import socket

    here = Machine(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}/x")
        assert found("mlflow", here).value.endswith(f"server 127.0.0.1:{port}")
    gone = found("mlflow", here)
    assert gone.status == "warning"
    assert f"127.0.0.1:{port} does not accept connections" in gone.value
    assert "secret" not in gone.value
    for local in ("sqlite:///a.db", "http://[", "databricks", "http://host:x"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", local)
        assert found("mlflow", here).status == "ok"


@pytest.mark.parametrize("gpus", [(), (H100,) * 8, (V100,), (MI300X,)], ids=len)
@pytest.mark.parametrize("name", CHECKS)
def test_checks_conform(name, gpus, machine):
    check_check(name, machine(*gpus))


@pytest.fixture
def adds(monkeypatch):
    """A function that makes a package add one check."""

    def add(place):
        points = EntryPoints([EntryPoint("mine", place, "scalelab.checks")])
        monkeypatch.setattr(registry, "_installed", lambda: points)

    return add


def find_no_license(machine):
    return warning("no license", "buy one")


def fail(machine):
    raise ZeroDivisionError("a bug")


def answer_with_text(machine):
    return "fine"


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        (f"{__name__}:find_no_license", "warning", "no license"),
        (f"{__name__}:fail", "problem", "could not be checked: ZeroDivisionError: a bug"),
        (f"{__name__}:answer_with_text", "problem", "returned str instead of a Finding"),
        (
            "no_such_package:check",
            "problem",
            "the check 'mine' of the package an unknown package cannot be used",
        ),
    ],
)
def test_a_package_adds_a_check_and_a_bad_one_is_one_problem(adds, tmp_path, place, status, words):
    adds(place)
    *own, mine = run_checks(Machine(tmp_path))

    assert {result.name for result in own} >= {"python", "torch", "disk"}
    assert (mine.name, mine.finding.status) == ("mine", status)
    assert words in mine.finding.value
    assert mine.finding.fix


@pytest.mark.parametrize(
    "bad", [("ok", "fine", "do it"), ("warning", "slow", ""), ("bad", "x", "y"), ("ok", " ", "")]
)
def test_a_finding_has_a_value_and_a_fix_where_it_is_due(bad):
    with pytest.raises(ValueError, match=r"status|value|fix"):
        Finding(*bad)


def test_the_command_reports_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(disk, "write_speed", lambda place: 1e9)

    assert main(["doctor", "--json", "machine.json"]) == 0
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "machine.json").read_text())
    assert record["schema"] == 1
    names = [check["check"] for check in record["checks"]]
    assert names == [name for name in CHECKS if name not in {"capability", "sharing", "clocks"}]
    assert all(name in out for name in names)
    assert all((check["fix"] is None) == (check["status"] == "ok") for check in record["checks"])
    assert out.strip().splitlines()[-1].endswith("roblems.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["machine.json"]


def test_exit_status_is_1_with_a_problem_and_2_for_wrong_usage(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, V100)
    monkeypatch.setattr("scalelab.hardware.machine.smi_reports", lambda: ((), "no answer"))
    monkeypatch.setenv("SCALELAB_RUNS", str(tmp_path))

    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "capability     problem: torch" in out
    assert "Fix: install a build of torch with kernels for it" in " ".join(out.split())
    assert "1 problem, " in out
    assert main(["doctor", "--json", str(tmp_path)]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "everything"])


def test_the_command_takes_less_than_five_seconds_of_a_core(tmp_path):
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "scalelab", "doctor"], cwd=tmp_path, check=False, capture_output=True
    )
    after = os.times()

    assert (after.children_user + after.children_system) - (before.children_user + before.children_system) < 5


def test_unknown_gpus_have_no_peak(machine):
    here = machine(PretendedGpu("NVIDIA X9000", 12, 0, 96 * GIB))

    assert "its peak is unknown, so no MFU is reported" in found("devices", here).value
    assert found("capability", here).status == "ok"
