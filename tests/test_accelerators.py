"""The table of accelerators: names people and drivers use, dense peaks, what is not known."""

import pytest

from scalelab.errors import PlanError
from scalelab.hardware.accelerators import ACCELERATORS, accelerator, by_driver_name, peak_flops_per_s


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("h100", "h100"),
        ("H100", "h100"),
        ("NVIDIA H200", "h200"),
        ("a100", "a100-80"),
        ("A100 40GB", "a100-40"),
        ("A100 80", "a100-80"),
        ("h100 pcie", "h100-pcie"),
        ("RTX 4090", "rtx4090"),
        ("GeForce RTX 3090", "rtx3090"),
        ("TPU v5e", "tpu-v5e"),
        ("MI300X", "mi300x"),
        ("NVIDIA GB200", "gb200"),
        ("gb300", "gb300"),
        ("AMD Instinct MI325X", "mi325x"),
        ("mi355x", "mi355x"),
        ("TPU v7", "tpu-v7"),
        ("Ironwood", "tpu-v7"),
        ("AWS Trainium2", "trn2"),
        ("L4", "l4"),
        ("T4", "t4"),
        ("Tesla V100", "v100"),
        ("H20", "h20"),
        ("GH200", "gh200"),
    ],
)
def test_people_may_write_names_as_they_like(said, name):
    assert accelerator(said).name == name


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H800", "h800"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA T4", "t4"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI325X", "mi325x"),
        ("AMD Instinct MI355X", "mi355x"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GB300", "gb300"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA L4", "l4"),
    ],
)
def test_a_driver_names_its_device(driver, name):
    assert by_driver_name(driver).name == name
    assert peak_flops_per_s(driver) == ACCELERATORS[name].peak_flops_per_s


@pytest.mark.parametrize(
    "driver",
    [
        "AMD EPYC 9B14",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 NVL",
        "NVIDIA A100X",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA H20-3e",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA T4G",
        "NVIDIA T400 4GB",
    ],
)
def test_a_device_that_only_looks_alike_is_unknown(driver):
    assert by_driver_name(driver) is None
    assert peak_flops_per_s(driver) is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("h100", 989),
        ("h200", 989),
        ("a100", 312),
        ("b200", 2250),
        ("mi300x", 1307),
        ("l40s", 362),
        ("gb200", 2500),
        ("gb300", 2500),
        ("mi325x", 1307.4),
        ("mi355x", 2516.6),
        ("tpu-v7", 2307),
        ("trn2", 667),
        ("l4", 121),
        ("t4", 8.1),
        ("v100", 15.7),
        ("h20", 148),
        ("gh200", 990),
    ],
)
def test_peaks_are_dense(name, tflops):
    """Datasheets lead with twice as much, for 2:4 sparsity."""
    assert accelerator(name).peak_flops_per_s == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize("one", ACCELERATORS.values(), ids=str)
def test_every_row_is_whole_and_sourced(one):
    assert one.source
    assert one.dated[:4].isdigit()
    assert 5e12 < one.peak_flops_per_s < 1e16
    assert 1e10 < one.memory_bytes < 1e12
    # Memory is faster than links, links of a node faster than 10 GB/s.
    assert 1e10 < one.link_bytes_per_s < one.bandwidth_bytes_per_s < 1e13
    assert one.power_w is None or 50 < one.power_w < 2000
    assert set(one.unverified) <= set(vars(one))


def test_an_unverified_peak_says_so():
    assert str(accelerator("rtx3090")).endswith("(peak unverified)")
    assert "unverified" not in str(accelerator("h100"))


@pytest.mark.parametrize(("said", "hint"), [("h1000", "h100"), ("rtx", "rtx4090")])
def test_an_unknown_name_is_answered_with_the_nearest(said, hint):
    with pytest.raises(PlanError, match=f"unknown accelerator '{said}'; did you mean .*{hint}"):
        accelerator(said)


def test_a_name_like_no_other_is_answered_with_the_table():
    with pytest.raises(PlanError, match="use one of: gb300, gb200, b200, gh200, h20, h200") as refused:
        accelerator("abacus")

    assert "did you mean" not in str(refused.value)
