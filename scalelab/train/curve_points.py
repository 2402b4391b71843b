"""Steps at which a run logs its training loss and measures its validation loss on the way.

They follow from the run's length alone, so that logs of runs are comparable, and so that a trunk can
measure at the points of each of its branches.
"""

from scalelab.train.spec import RunSpec


def log_interval(n_steps: int) -> int:
    """Return the steps between two logged points of a run of n_steps: about a hundred points, on fixed steps."""
    return max(1, min(50, n_steps // 100))


def evaluation_steps(spec: RunSpec) -> set[int]:
    """Return the steps after which a run measures its validation loss on the way, evenly spaced."""
    points = spec.evaluation.curve_points
    return {spec.n_steps * i // (points + 1) for i in range(1, points + 1)} - {0}
