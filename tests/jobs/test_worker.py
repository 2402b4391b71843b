"""What a process of a job leaves in its directory."""

from scalelab.jobs.worker import Assignment, stacks_of
from scalelab.train.run_directory import RunDir


def test_a_late_process_of_an_earlier_attempt_does_not_disturb_the_watchdog_of_the_next(tmp_path):
    assignment = Assignment(RunDir(tmp_path), {}, 0, 1, lambda: False)

    # The second one is the earlier attempt's: it ends first.
    with assignment.watchdog(900.0, 900.0), assignment.watchdog(900.0, 900.0):
        assert stacks_of(assignment.dir, 0).exists()

    assert list(tmp_path.iterdir()) == []
