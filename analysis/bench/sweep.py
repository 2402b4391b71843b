"""How long the embedded default takes end to end, and how fast the command answers.

    python analysis/bench/sweep.py

Runs `scalelab sweep sweeps/isoflop.yaml` as a person would, from an empty cache in an empty
directory that is thrown away: preparing the corpus, timing, training, the mirror. Then
`scalelab --help`, the median of ten. Prints one JSON object a line: what was measured, its
value, its unit and its limit. Exit 1 when one is over its limit or fails.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = Path(__file__).parents[2] / "sweeps" / "isoflop.yaml"
OVERRIDES: list[str] = []  # "--set", "a.b=value", ...; none: the sweep as it stands
SWEEP_LIMIT_S, HELP_LIMIT_S = 300, 0.3
HELP_CALLS = 10


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        places = {"SCALELAB_CACHE": f"{directory}/cache", "SCALELAB_RUNS": f"{directory}/runs"}
        environ = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | places
        wall = timed(["sweep", str(SWEEP), *OVERRIDES], environ, directory)
        n_runs = len(list(Path(directory).glob("runs/*/*/result.json")))
        helps = [timed(["--help"], environ, directory) for _ in range(HELP_CALLS)]
    ok = [
        told("scalelab sweep from nothing", wall, SWEEP_LIMIT_S, n_runs=n_runs),
        told("scalelab --help", statistics.median(helps), HELP_LIMIT_S, least=round(min(helps), 3)),
    ]
    return 0 if all(ok) else 1


def timed(arguments: list[str], environ: dict[str, str], directory: str) -> float:
    """Wall seconds of one scalelab command. Raises CalledProcessError where it fails."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("scalelab")), *arguments]
    done = subprocess.run(command, env=environ, cwd=directory, stdout=subprocess.PIPE, text=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    done.check_returncode()
    return wall


def told(what: str, value: float, limit: float, **about: object) -> bool:
    """Print one measurement in seconds; True when it keeps its limit."""
    print(json.dumps({"what": what, "value": round(value, 3), "unit": "s", "limit": limit} | about))
    return value <= limit


if __name__ == "__main__":
    sys.exit(main())
