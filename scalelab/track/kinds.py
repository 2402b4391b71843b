"""The two kinds of work that a name can stand for, and their manifests as files.

    kind            manifest                      written by
    sweep           runs/<name>/sweep.json        scalelab sweep
    post-training   runs/<name>/posttrain.json    scalelab posttrain

A name may stand for both.

Not here: what the manifests hold (manifest.py, stages.py).
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from scalelab.errors import TrackError
from scalelab.files import write_json

Manifest = TypeVar("Manifest")


@dataclass(frozen=True)
class Kind:
    """One kind of work."""

    noun: str
    file: str
    """Name of its manifest."""
    command: str
    """What writes the manifest and does the work."""

    def path(self, root: Path, name: str) -> Path:
        """Where the manifest of `name` lies."""
        return root / name / self.file

    def names(self, root: Path) -> list[str]:
        """Names that have a manifest of this kind, sorted."""
        return sorted(path.parent.name for path in root.glob(f"*/{self.file}"))

    def write(self, root: Path, name: str, manifest: Any, load: Callable[[Path, str], Any]) -> None:
        """Write a manifest, whole. The time of the first writing is kept, where it can be read."""
        first = manifest.created_ms
        with suppress(TrackError):  # what cannot be read is mended by writing it anew
            first = load(root, name).created_ms
        record = {"schema": 1, **asdict(replace(manifest, created_ms=first))}
        write_json(self.path(root, name), record)

    def read(self, root: Path, name: str, build: Callable[[dict[str, Any]], Manifest]) -> Manifest:
        """What `build` makes of the manifest's record.

        Raises:
            TrackError: There is no such manifest, or it cannot be read.
        """
        path = self.path(root, name)
        try:
            return build(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise self.unknown(root, name) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackError(
                f"the manifest of {name!r} cannot be read: {error}",
                where=str(path),
                fix=f"run `{self.command}` on its file again: it writes the manifest anew",
            ) from None

    def unknown(self, root: Path, name: str) -> TrackError:
        """What a person is told of a name that stands for nothing of this kind."""
        there = ", ".join(self.names(root)) or "none"
        others = [
            f"; {kind.noun}s: {', '.join(names)}"
            for kind in KINDS
            if kind != self and (names := kind.names(root))
        ]
        return TrackError(
            f"there is no {self.noun} {name!r}",
            where=f"{root}, which holds: {there}{''.join(others)}",
            fix=f"name one of these, or train it: {self.command} FILE.yaml",
        )


SWEEP = Kind("sweep", "sweep.json", "scalelab sweep")
POSTTRAINING = Kind("post-training", "posttrain.json", "scalelab posttrain")
KINDS = (SWEEP, POSTTRAINING)


def kinds_of(root: Path, name: str) -> list[Kind]:
    """What `name` stands for: one kind, or both.

    Raises:
        TrackError: There is neither a sweep nor a post-training of that name.
    """
    found = [kind for kind in KINDS if kind.path(root, name).exists()]
    if not found:
        raise SWEEP.unknown(root, name)
    return found


def every_name(root: Path) -> list[str]:
    """Names that stand for work of any kind, sorted."""
    return sorted({name for kind in KINDS for name in kind.names(root)})
