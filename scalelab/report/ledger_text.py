"""`scalelab runs --forecasts`: every frozen forecast, launched or not, and what came true."""

from pathlib import Path

from scalelab.plan.ledger import entries, listing
from scalelab.track.manifest import SweepManifest, list_sweeps


def forecasts(root: Path) -> str:
    """The ledger for eyes. A forecast is launched once a run of its plan has begun.

    Raises:
        PlanError: A forecast or an outcome has been changed or cannot be read.
    """
    known = {frozen.digest[:12]: frozen.digest for frozen, _ in entries(root)}
    begun = set()
    for name in list_sweeps(root):
        manifest = SweepManifest.load(root, name)
        started = any((root / run.dir / "log.jsonl").exists() for run in manifest.runs)
        if manifest.digest in known and started:
            begun.add(known[manifest.digest])
    return listing(root, begun)
