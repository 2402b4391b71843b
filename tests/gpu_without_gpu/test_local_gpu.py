"""Which GPU a process of torchrun's gets: an own one of the machine's, or the one that it was given."""

import os

import pytest
import torch

from scalelab.errors import LaunchError
from scalelab.hardware import local_gpu
from scalelab.hardware.local_gpu import refuse_shared, use_own_gpu, visible_to_process
from scalelab.train.engines import parallel

MIG = "MIG-1c2a8f0e-0001-5c3e-9a51-0f0e6a1d2b3c"


@pytest.mark.parametrize(
    ("local_rank", "shown", "on_machine", "own"),
    [
        (0, None, 8, "0"),
        (7, None, 8, "7"),
        (3, None, 0, None),
        (3, "", 8, ""),
        (3, "-1", 8, ""),
        (0, "5", 8, "5"),
        (3, "5", 8, "5"),  # a launcher gave this process its own
        (3, MIG, 8, MIG),
        (0, "4,5", 8, "4"),
        (1, "4, 5", 8, "5"),
        (1, f"{MIG},GPU-8932f937", 8, "GPU-8932f937"),
        (0, "2,-1,3", 8, "2"),
    ],
)
def test_the_gpu_of_a_process(local_rank, shown, on_machine, own):
    assert visible_to_process(local_rank, shown, on_machine) == own


@pytest.mark.parametrize(("local_rank", "shown", "n"), [(2, None, 2), (2, "4,5", 2), (1, "", 0)])
def test_more_processes_than_gpus_are_refused_and_not_shared_out_again(local_rank, shown, n):
    if not n:
        assert visible_to_process(local_rank, shown, n) == ""
        return
    with pytest.raises(LaunchError, match=f"LOCAL_RANK is {local_rank}, and {n} GPUs are visible"):
        visible_to_process(local_rank, shown, n)


@pytest.fixture
def eight_gpus(monkeypatch):
    """A machine with eight GPUs on which the environment says nothing."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    for name in ("LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_process_that_nobody_numbered_sees_what_it_saw(eight_gpus):
    use_own_gpu()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_numbered_process_sees_its_own_alone(eight_gpus):
    eight_gpus.setenv("LOCAL_RANK", "6")
    use_own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    use_own_gpu()  # likewise where it is called again
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"


@pytest.mark.parametrize(
    ("hip", "shown", "own"),
    [
        ("6.4", {"HIP_VISIBLE_DEVICES": "4,5"}, {"HIP_VISIBLE_DEVICES": "5", "CUDA_VISIBLE_DEVICES": "5"}),
        (
            "6.4",
            {"HIP_VISIBLE_DEVICES": "4,5", "CUDA_VISIBLE_DEVICES": "0,1,2"},
            {"HIP_VISIBLE_DEVICES": "5", "CUDA_VISIBLE_DEVICES": "5"},
        ),
        ("6.4", {"HIP_VISIBLE_DEVICES": ""}, {"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": ""}),
        ("6.4", {"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "5"}),
        ("6.4", {}, {"CUDA_VISIBLE_DEVICES": "1"}),
        (None, {"HIP_VISIBLE_DEVICES": "4,5"}, {"HIP_VISIBLE_DEVICES": "4,5", "CUDA_VISIBLE_DEVICES": "1"}),
    ],
)
def test_on_amd_the_variable_of_hip_is_the_one_that_counts(eight_gpus, hip, shown, own):
    eight_gpus.setattr(torch.version, "hip", hip)
    eight_gpus.setenv("LOCAL_RANK", "1")
    for name, value in shown.items():
        eight_gpus.setenv(name, value)
    use_own_gpu()

    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    assert {name: os.environ[name] for name in names if name in os.environ} == own


def test_too_many_processes_are_refused_by_the_variable_that_counts(eight_gpus):
    eight_gpus.setattr(torch.version, "hip", "6.4")
    eight_gpus.setenv("LOCAL_RANK", "2")
    eight_gpus.setenv("HIP_VISIBLE_DEVICES", "4,5")
    with pytest.raises(LaunchError, match="LOCAL_RANK is 2, and 2 GPUs are visible") as refused:
        use_own_gpu()
    assert refused.value.where == "HIP_VISIBLE_DEVICES is 4,5"


def test_a_number_that_is_none_is_refused(eight_gpus):
    eight_gpus.setenv("LOCAL_RANK", "first")
    with pytest.raises(LaunchError, match="LOCAL_RANK is 'first'"):
        use_own_gpu()


def test_two_processes_with_one_gpu_are_refused_by_their_numbers():
    refuse_shared([("a", "GPU-1"), ("b", "GPU-1"), ("a", MIG)])
    with pytest.raises(LaunchError, match="processes 1 and 2 have the same GPU") as refused:
        refuse_shared([("a", "GPU-1"), ("b", "GPU-1"), ("b", "GPU-1")])
    assert refused.value.where == "GPU-1 on b"


def test_processes_compare_their_gpus_when_they_join(monkeypatch):
    """A launcher that gives all processes the same single GPU, which no process can see alone."""
    from scalelab.hardware.device import Device

    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(parallel, "own_gpu", lambda: "GPU-1")

    def gathered(owners, own):
        owners[:] = [own, own]

    monkeypatch.setattr(parallel.dist, "all_gather_object", gathered)
    with pytest.raises(LaunchError, match="processes 0 and 1 have the same GPU"):
        parallel.join(1.0, Device("cuda", "pretended", None))


def test_the_gpu_is_known_by_its_uuid(monkeypatch):
    class Properties:
        uuid = "0f0e6a1d-2b3c-5c3e-9a51-1c2a8f0e0001"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert local_gpu.own_gpu() == Properties.uuid
