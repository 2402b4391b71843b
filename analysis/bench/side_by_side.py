"""Whether two runs side by side beat the same runs one after another. Exit 0 either way.

    python analysis/bench/side_by_side.py

Trains a few short runs of the embedded default's recipe twice through the driver and the local
executor, as `scalelab sweep` does: with a run on each core and one thread each, then with one
slot, where every run has two threads. Each time the worker server is warm and the corpus is
prepared, so only the driving is timed. Run directories are thrown away; the corpus stays in
the cache. Prints a table, then one JSON object. Needs a machine of two cores or more; on more
it keeps to two.
"""

import json
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path

from scalelab.data.corpus.shards import prepare
from scalelab.jobs.executors.local import LocalConfig
from scalelab.launch.sweep_plan import place
from scalelab.launch.sweep_run import train_all, write_manifest
from scalelab.sweep.file import SweepFile

SWEEP = Path(__file__).parents[2] / "sweeps" / "isoflop.yaml"
FAMILY = ["design.budgets=[1e11, 1.5e11]", "design.sizes_per_budget=3", "design.replicates=1"]
SLOTS = {"side by side": 2, "one after another": 1}
TARGET = 0.9


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) >= 2, "nothing can go side by side on one core"
    os.sched_setaffinity(0, cores[:2])
    file = SweepFile.load(SWEEP, FAMILY)
    corpus = prepare(file.recipe.data)
    proposals = file.design.ask(file.recipe, vocab_size=corpus.vocab_size, data_digest=corpus.digest)
    seconds = {name: drive_all(file, proposals, slots) for name, slots in SLOTS.items()}
    for name, wall in seconds.items():
        print(f"{len(proposals)} runs {name:<18} {wall:6.1f} s")
    ratio = seconds["side by side"] / seconds["one after another"]
    verdict = "reached" if ratio <= TARGET else "NOT reached"
    print(f"ratio {ratio:.2f}; target at most {TARGET}: {verdict}")
    print(
        json.dumps(
            {"what": "two runs side by side over one after another", "value": round(ratio, 3)}
            | {"unit": "ratio of wall seconds", "limit": TARGET, "n_runs": len(proposals)}
            | {name.replace(" ", "_") + "_s": round(wall, 2) for name, wall in seconds.items()}
        )
    )


def drive_all(file: SweepFile, proposals: tuple, slots: int) -> float:
    """Wall seconds to train every run with so many slots."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        work = place(proposals, root, file.name)
        write_manifest(file, work, root)
        with closing(LocalConfig(slots=slots).start(("scalelab.launch.training",))) as executor:
            began = time.perf_counter()
            outcomes = train_all(file, work, executor)
            wall = time.perf_counter() - began
        assert len(outcomes.of("done")) == len(work), outcomes
    return wall


if __name__ == "__main__":
    main()
