"""`scalelab runs --forecasts`: every frozen forecast, launched or not, and what came true."""

import sys
from pathlib import Path

from scalelab.errors import ScalelabError
from scalelab.plan.ledger import entries, listing
from scalelab.track.manifest import SweepManifest, list_sweeps


def show_forecasts(root: Path) -> int:
    """Print the ledger. A forecast is launched once a run of its plan has begun.

    What cannot be read is reported on stderr; the other entries are listed.

    Returns: The exit status: 2 where something cannot be read.
    """
    every = entries(root)
    known = {entry.frozen.digest[:12]: entry.frozen.digest for entry in every if entry.frozen}
    problems: list[ScalelabError] = [entry.problem for entry in every if entry.problem]
    begun = set()
    for name in list_sweeps(root):
        try:
            manifest = SweepManifest.load(root, name)
        except ScalelabError as error:
            problems.append(error)  # it may have been that of a launched plan
            continue
        started = any((root / run.dir / "log.jsonl").exists() for run in manifest.runs)
        if manifest.digest in known and started:
            begun.add(known[manifest.digest])
    print(listing(root, every, begun), flush=True)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0
