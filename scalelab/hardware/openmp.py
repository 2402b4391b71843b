"""How threads of a process wait for one another: asleep, and not by spinning.

Between two parallel loops the threads of OpenMP wait. By default they spin for milliseconds, which takes a core from
whatever else wants it; the last thread of a loop then waits for a core that another one burns. Asleep, they are
woken by the kernel in microseconds.

Measured on two threads of a machine of two cores that others used too (load 8), a transformer of width 64 with 1,024
tokens a step: 7 to 8 times the tokens a second and 10 times the tokens a CPU second; with real-time priority, which
leaves both cores to the run, 2.6 times (2.2 to 4.8, five pairs) and 3.4 times. Losses are equal to the last bit. An
idle machine was not at hand. With one thread there is nobody to wait for.

Source: OpenMP 5.2, OMP_WAIT_POLICY; GNU libgomp, GOMP_SPINCOUNT (300,000 turns by default, 0 if passive).
Not here: the number of threads (device.py).
"""

import os

WAIT_POLICY = "OMP_WAIT_POLICY"
"""Environment variable that OpenMP's libraries read when they are loaded, which torch does."""


def sleep_between_loops() -> None:
    """Let OpenMP's threads of this process and its children sleep while they wait, unless the environment says else.

    Call it before torch is imported; afterwards it is for the children alone.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
