"""The share of time that training waits for saves, and saves that are written while a run trains."""

import errno
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from scalelab.errors import RunError
from scalelab.train import loop, step_clock
from scalelab.train.checkpoints import saver as saver_module
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.saver import HostBuffers, UnshardedSaver
from scalelab.train.checkpoints.sharded import HostCopy, leave
from scalelab.train.checkpoints.unsharded import Progress
from scalelab.train.engines.single import SingleEngine
from scalelab.train.loop import train

RUN = "0123456789ab"
PATIENCE_S = 30.0


@pytest.fixture
def run_dir(tmp_path, tiny_run):
    return lambda where="run", **changes: tiny_run(tmp_path / where, **changes)


def events(run_dir, kind):
    return [event for event in run_dir.events() if event["event"] == kind]


@pytest.mark.parametrize("save_s", [0.5, 10.0, 20.0, 60.0])
def test_saves_take_at_most_a_twentieth_of_a_run(run_dir, monkeypatch, save_s):
    """60 steps of a minute each, in pretended time, and saves of any duration."""
    now, saves = [0.0], []
    save, gradient = unsharded.save, SingleEngine.gradient

    def slow_save(*arguments):
        saves.append(save_s)
        now[0] += save_s
        return save(*arguments)

    def slow_gradient(engine, batch):
        now[0] += 60.0
        return gradient(engine, batch)

    monkeypatch.setattr(unsharded, "save", slow_save)
    monkeypatch.setattr(SingleEngine, "gradient", slow_gradient)
    for module in (loop, step_clock):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns))

    train(run_dir(n_steps=60))

    assert saves
    assert sum(saves) <= 0.05 * now[0]


def test_the_first_save_of_a_large_model_is_expected_to_take_time():
    """Of a billion parameters, 12 GB: saved after four minutes, not after 15 s of training."""
    wait = unsharded.seconds_until_next(unsharded.expected_save_s(12 * 10**9))

    assert wait == 240
    assert unsharded.seconds_until_next(unsharded.expected_save_s(12 * 10**6)) == 15


# Written while the run trains


@pytest.fixture
def in_background(monkeypatch):
    """Runs save in the background, as often as they can."""
    monkeypatch.setattr(loop, "saves_in_background", lambda device: True)
    monkeypatch.setattr(unsharded, "seconds_until_next", lambda last: 0.0)


def test_a_run_trains_on_while_a_checkpoint_is_written_and_one_at_a_time(run_dir, in_background, monkeypatch):
    straight = train(run_dir("straight", n_steps=60))
    steps, under_way, most, trained = [], [], [], []
    save, gradient = unsharded.save, SingleEngine.gradient

    def slow_save(*arguments):
        under_way.append(True)
        most.append(len(under_way))
        begun, n = time.monotonic(), len(steps)
        while len(steps) < n + 3 and len(steps) < 60 and time.monotonic() < begun + PATIENCE_S:
            time.sleep(0.001)
        trained.append(len(steps) - n)
        under_way.pop()
        return save(*arguments)

    def counted(engine, batch):
        steps.append(True)
        return gradient(engine, batch)

    monkeypatch.setattr(unsharded, "save", slow_save)
    monkeypatch.setattr(SingleEngine, "gradient", counted)
    result = train(run_dir("background", n_steps=60))

    assert set(most) == {1}
    assert len(trained) >= 2  # how many fit in depends on the machine
    assert min(trained[:-1]) >= 3
    assert result.loss == straight.loss
    assert result.train_curve == straight.train_curve


def test_what_is_saved_is_the_state_of_its_step_and_not_of_later_ones(tmp_path, monkeypatch):
    weight, progress, trained_on = torch.zeros(4), Progress(step=4), threading.Event()
    save = unsharded.save

    def late_save(*arguments):
        assert trained_on.wait(PATIENCE_S)
        return save(*arguments)

    monkeypatch.setattr(unsharded, "save", late_save)
    saver = UnshardedSaver(tmp_path, RUN, lambda: {"w": weight}, lambda: None, background=True)
    saver.begin(progress)
    weight.add_(1)
    progress.step += 1
    progress.train_curve.append([5, 5, 5.0])
    assert saver.is_busy
    assert saver.poll() is None
    trained_on.set()

    assert saver.wait() == 4
    saved, tensors, _ = unsharded.newest(tmp_path, RUN)
    assert saved == Progress(step=4)
    assert tensors["w"].tolist() == [0, 0, 0, 0]


def test_a_stopped_run_has_saved_its_last_step(run_dir, in_background):
    straight, halted = run_dir("straight"), run_dir("halted")
    wanted = train(straight)
    asked = []

    def stop():
        asked.append(True)
        return len(asked) in (20, 45)

    assert train(halted, stop) is None
    assert train(halted, stop) is None
    result = train(halted)

    assert [event["step"] for event in events(halted, "resume")] == [20, 45]
    assert result.loss == wanted.loss
    assert straight.weights_path.read_bytes() == halted.weights_path.read_bytes()


def test_a_save_that_fails_ends_the_run_at_a_later_step_with_its_error(run_dir, in_background, monkeypatch):
    def full(tensors, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unsharded, "_write", full)
    place = run_dir("full")
    with pytest.raises(RunError, match=r"cannot write step-.*No space left") as error:
        train(place)

    assert "fix:   free some space" in str(error.value)
    assert list(place.checkpoints.iterdir()) == []
    assert not place.is_done


def test_nothing_is_written_any_more_once_training_has_ended_for_any_reason(
    run_dir, in_background, monkeypatch
):
    """The lease is given up next, and another process may train from there."""
    before = set(threading.enumerate())
    save, written = unsharded.save, threading.Event()

    def slow_save(*arguments):
        time.sleep(0.3)
        save(*arguments)
        written.set()

    def fails(engine, factor, norm):
        if engine.optimizer.updates > 3:
            raise ValueError("a fault")
        return update(engine, factor, norm)

    update = SingleEngine.update
    monkeypatch.setattr(unsharded, "save", slow_save)
    monkeypatch.setattr(SingleEngine, "update", fails)
    with pytest.raises(ValueError, match="a fault"):
        train(run_dir("fault"))

    assert written.is_set()
    later = set(threading.enumerate()) - before
    assert not [thread for thread in later if thread.name.startswith("checkpoint")]


def test_a_run_that_was_taken_over_leaves_no_checkpoint(tmp_path):
    def taken():
        raise RunError("another process has the run", where="here", fix="wait")

    saver = UnshardedSaver(tmp_path, RUN, lambda: {"w": torch.ones(3)}, taken, background=True)
    saver.begin(Progress(step=4))
    with pytest.raises(RunError, match="another process has the run"):
        saver.wait()

    assert list(tmp_path.iterdir()) == []


def test_the_copy_keeps_the_values_and_uses_its_memory_again():
    buffers, weight = HostBuffers(), torch.arange(6.0)
    first = buffers.copy({"w": weight[2:]})["w"]
    place = first.data_ptr()
    weight.zero_()

    assert first.tolist() == [2, 3, 4, 5]
    assert buffers.copy({"w": weight[2:]})["w"].data_ptr() == place
    assert saver_module._host_buffer(weight[2:]).dtype == torch.float32


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    device = property(lambda self: torch.device("cuda"))


@pytest.fixture
def asked(monkeypatch):
    """What was asked for each buffer, and the number of times that a GPU was waited for."""
    found = SimpleNamespace(pinned=[], waits=0, limit=10**9)
    empty_like = torch.empty_like

    def make(tensor, device=None, pin_memory=False):
        found.pinned.append(pin_memory)
        if pin_memory and len(found.pinned) > found.limit:
            raise RuntimeError("CUDA error: out of memory")
        return empty_like(torch.Tensor(tensor), device=device)

    def wait():
        found.waits += 1

    monkeypatch.setattr(torch, "empty_like", make)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    return found


@pytest.mark.parametrize(
    "stage", [lambda: HostBuffers().copy, lambda: HostCopy().stage], ids=["one", "launched"]
)
def test_the_state_of_a_gpu_is_copied_to_pinned_memory_that_is_used_again(asked, stage):
    copy, weight = stage(), torch.arange(6.0).as_subclass(OnGpu)
    first = copy({"w": weight, "b": weight[2:]})
    places = {name: tensor.data_ptr() for name, tensor in first.items()}
    weight += 1
    second = copy({"w": weight, "b": weight[2:]})

    assert asked.pinned == [True, True]
    assert asked.waits == 2
    assert {name: tensor.data_ptr() for name, tensor in second.items()} == places
    assert second["w"].tolist() == [1, 2, 3, 4, 5, 6]
    assert second["b"].tolist() == [3, 4, 5, 6]


def test_where_memory_cannot_be_pinned_the_copy_is_made_all_the_same(asked):
    asked.limit = 0
    weight = torch.arange(6.0).as_subclass(OnGpu)

    assert HostCopy().stage({"w": weight})["w"].tolist() == weight.tolist()
    assert asked.pinned == [True, False]


def test_the_state_of_a_cpu_is_copied_anew_and_not_pinned(asked):
    copy, weight = HostCopy(), torch.arange(6.0)
    first, second = (copy.stage({"w": weight})["w"] for _ in range(2))
    weight.zero_()

    assert asked.pinned == []
    assert asked.waits == 0
    assert first.tolist() == second.tolist() == [0, 1, 2, 3, 4, 5]
    assert first.data_ptr() != second.data_ptr()


def test_buffers_of_a_sharded_tensor_are_its_parts():
    leave()  # checkpoints of an earlier test in this process may have made a group of one
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        weight = distribute_tensor(torch.arange(6.0).view(3, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
        found = HostBuffers().copy({"w": weight})["w"]

        assert isinstance(found, DTensor)
        assert found.placements == weight.placements
        assert found.to_local().tolist() == weight.to_local().tolist()
        assert found.to_local().data_ptr() != weight.to_local().data_ptr()
    finally:
        leave()
