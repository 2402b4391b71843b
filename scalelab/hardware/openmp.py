"""How threads of a process wait for one another: a short spin, then asleep.

Between two parallel loops the threads of OpenMP wait. GNU's library lets them spin for milliseconds, which takes a core
from whatever else wants it; the last thread of a loop then waits for a core that another one burns. Asleep, they are
woken by the kernel, which takes longer than most loops of a small model. Measured on two threads of two cores, a
transformer of width 64 with 1,024 tokens a step, tokens a second over those of the default:

    turns of a spin            300,000 (default)   3,000   1,000   0 (OMP_WAIT_POLICY=PASSIVE)
    nothing else on the cores       1               1.05    .97      .6
    three busy processes            1               2.2     4.2     3.7 to 5.7

Losses are equal to the last bit. With one thread there is nobody to wait for.

Source: OpenMP 5.2, OMP_WAIT_POLICY; GNU libgomp, GOMP_SPINCOUNT (1,000 is its own choice where there are more threads
than cores).
Not here: the number of threads (device.py).
"""

import os

WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
"""Environment variables that OpenMP's libraries read when they are loaded, which torch does."""
TURNS = "1000"


def spin_briefly() -> None:
    """Let OpenMP's threads of this process and its children sleep after a short wait, unless the environment says else.

    Call it before torch is imported; afterwards it is for the children alone.
    """
    if WAIT_POLICY not in os.environ:
        os.environ.setdefault(SPIN_COUNT, TURNS)
