"""An executor whose jobs end as a test says, without any process."""

from scalelab.jobs.base import AvailableDevices, Capabilities, JobOutcome


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
