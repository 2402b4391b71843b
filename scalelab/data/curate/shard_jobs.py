"""Jobs of a stage: one for each shard of what comes in, and for the first stage one for each group of files.

Not here: what a job does (shard_work.py), the order of the stages (pipeline.py).
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from scalelab.data.curate.base import CurationStage, PageSource
from scalelab.data.curate.shard_work import ShardJob
from scalelab.data.curate.store import StoredShard

SAMPLE_FILES = 400
"""Files of the source that a sample is drawn from."""


def reading_jobs(
    first: CurationStage,
    directory: Path,
    source: PageSource,
    groups: Sequence[Sequence[str]],
    hashes: Mapping[Path, str],
    *,
    is_sample: bool,
) -> list[ShardJob]:
    """Return the jobs of the first stage, over groups of files.

    Args:
        first: The stage.
        directory: Its directory.
        source: Source of the pages.
        groups: Places of each shard.
        hashes: SHA-256 of the files of the source, by absolute path.
        is_sample: Whether a sample is curated.
    """
    stage, settings = first.model_dump(mode="json"), source.model_dump(mode="json")

    def hash_of(place: str) -> str:
        path = source.file_of(place)
        return "" if path is None else hashes.get(path.absolute(), "")

    return [
        ShardJob(
            "apply",
            stage,
            str(directory),
            k,
            source=settings,
            places=tuple(group),
            hashes=tuple(map(hash_of, group)),
            is_sample=is_sample,
        )
        for k, group in enumerate(groups)
    ]


def stage_jobs(
    stage: CurationStage, directory: Path, before: Path, shards: Sequence[StoredShard], *, is_sample: bool
) -> list[ShardJob]:
    """Return the jobs of a stage behind the first, over stored shards.

    Args:
        stage: The stage.
        directory: Its directory.
        before: Directory of the stage before it.
        shards: What that stage kept.
        is_sample: Whether a sample is curated.
    """
    settings = stage.model_dump(mode="json")
    return [
        ShardJob(
            "apply", settings, str(directory), k, str(before / shard.file), shard.sha256, is_sample=is_sample
        )
        for k, shard in enumerate(shards)
    ]


def sample_of(groups: list[list[str]]) -> list[list[str]]:
    """Return a few files of each group, drawn evenly."""
    n = sum(map(len, groups))
    share = min(1.0, SAMPLE_FILES / n)
    found = []
    for i, group in enumerate(groups):
        wanted = max(1, round(share * len(group)))
        found.append(sorted(random.Random(i).sample(group, wanted), key=group.index))
    return found
