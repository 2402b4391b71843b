"""The probe of a process's speed on a pretended GPU: its work counts, what was queued and the launch do not."""

import pytest
import torch

from scalelab.hardware.device import Device, find_device
from scalelab.train.engines import probe
from scalelab.train.stability import SLOW_IN_A_ROW, StragglerMonitor

LAUNCH_S, WORK_S, QUEUED_S = 0.3, 0.004, 50.0


class Gpu:
    """A device that does its work in order, in time of its own, while the host goes on."""

    def __init__(self, slower=1.0):
        self.slower, self.host, self.free_at = slower, 0.0, 0.0

    def launch(self, seconds):
        self.host += LAUNCH_S
        self.free_at = max(self.free_at, self.host) + seconds * self.slower

    def event(self, **_):
        return Event(self)


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = max(self.gpu.free_at, self.gpu.host)

    def synchronize(self):
        self.gpu.host = max(self.gpu.host, self.at)

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


def seconds_on(gpu, monkeypatch):
    """What the probe finds on a pretended GPU whose queue is full of training."""
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    gpu.launch(QUEUED_S)
    return probe.device_seconds(Device("cuda", "pretended", None), lambda: gpu.launch(WORK_S))


def test_only_the_work_of_the_probe_counts(monkeypatch):
    assert seconds_on(Gpu(), monkeypatch) == pytest.approx(WORK_S)


def test_a_slow_device_is_found_though_launching_takes_much_longer(monkeypatch):
    stragglers = StragglerMonitor()
    for _ in range(SLOW_IN_A_ROW):
        own = [seconds_on(Gpu(slower), monkeypatch) for slower in (1.0, 1.0, 3.0, 1.0)]
        found = stragglers.observe(own)

    assert found == {2: pytest.approx(3.0)}


def test_a_processor_is_waited_for_before_and_after():
    waits = []

    class Waiting(Device):
        def synchronize(self):
            waits.append(len(done))

    done = []
    assert probe.device_seconds(Waiting("cpu", "pretended", None), lambda: done.append(True)) >= 0
    assert waits == [0, 1]


def test_the_probe_measures_something_here():
    assert probe.own_seconds(find_device()) > 0
