"""An executor whose jobs end as a test says, without any process."""

import os
import signal
import time
from contextlib import suppress

from scalelab.jobs.base import AvailableDevices, Capabilities, JobOutcome
from scalelab.jobs.executors.inline import InlineConfig
from scalelab.jobs.record import read_record, write_record
from scalelab.jobs.worker import Assignment, run_reported


class Scripted:
    """An executor whose jobs end as a function says that is called at each poll."""

    capabilities = Capabilities(gangs=True, timing=False)
    devices = AvailableDevices(1, "a script", 1)

    def __init__(self, state, slots=2, found=()):
        self.state, self.slots, self.found = state, slots, found
        self.submitted, self.cancelled, self.jobs = [], [], {}

    def check(self, each):
        pass

    def has_room(self, each):
        return len(self.jobs) < self.slots

    def submit(self, each):
        self.submitted.append(each.id)
        self.jobs[each.id] = each

    def poll(self):
        states = {name: self.state(self, each) for name, each in self.jobs.items()}
        for name, state in states.items():
            if isinstance(state, JobOutcome):
                del self.jobs[name]
        return states

    def cancel(self, ids, *, now):
        self.cancelled += [(name, now) for name in ids]

    def find(self, jobs):
        self.jobs |= {each.id: each for each in jobs if each.id in self.found}
        return self.found

    def close(self):
        pass


def done(executor, each):
    each.dir.result_path.write_text("{}")
    return JobOutcome(each, "done")


class InProcess(Scripted):
    """Runs jobs in this process.

    Args:
        kills: Whether the first try of a job is killed before its first piece of work, and each later one behind one.
    """

    def __init__(self, kills=False):
        super().__init__(lambda executor, each: self.run(each))
        self.kills = kills

    def submit(self, each):
        write_record(each)
        super().submit(each)

    def run(self, each):
        asked = iter([False] * min(1, self.submitted.count(each.id) - 1))
        stop = (lambda: next(asked, True)) if self.kills else (lambda: False)
        record = read_record(each.dir)
        found = run_reported(Assignment(each.dir, record.settings, 0, 1, stop), record)
        if found.outcome == "interrupted":
            return JobOutcome(each, "killed", "signal 9")
        return JobOutcome(each, found.outcome, found.reason, found.where, found.fix)


class Given(InlineConfig):
    """Settings of an executor that a test made."""

    def start(self, preload=(), home=None):
        return self.executor

    def with_executor(self, executor):
        self.__dict__["executor"] = executor
        return self


def given(executor):
    return Given().with_executor(executor)


def killed_after(n, count, begin):
    """Begin something in a process of its own, and kill it -9 once `count` returns n."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.setsid()
            begin()
        os._exit(0)
    deadline = time.monotonic() + 60
    while count() < n:
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "it had ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "it had ended before it was killed"
