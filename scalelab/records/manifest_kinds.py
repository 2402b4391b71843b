"""The two kinds of work that a name can stand for, and their manifests as files.

    kind            manifest                      written by
    sweep           runs/<name>/sweep.json        scalelab sweep
    post-training   runs/<name>/posttrain.json    scalelab posttrain

A name may stand for both. Manifests are sealed (sealed.py); those from before the seals are read.
Nothing is read or written through a symbolic link below the directory of all runs.

Not here: what the manifests hold (sweep_manifest.py, stage_manifest.py).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from scalelab.errors import RunError, TrackError
from scalelab.files import RESERVED, dirs_with, exists, inside, is_component, make_dir, refuse_link
from scalelab.sealed import Damaged, Format

Manifest = TypeVar("Manifest")
SCHEMA, UNSEALED = 2, 1
"""Schemas of manifests, and of those from before the seals."""


@dataclass(frozen=True)
class ManifestKind:
    """One kind of work."""

    noun: str
    file: str
    """Name of its manifest."""
    command: str
    """Command that writes the manifest and does the work."""

    def format(self, type: type[Manifest]) -> Format[Manifest]:
        """The file format of the kind's manifest, of which `type` is the record."""
        return Format(
            f"{self.noun} manifest",
            type,
            schema=SCHEMA,
            unsealed=UNSEALED,
            error=TrackError,
            fix=f"run `{self.command}` on its file again, which writes the manifest anew, or "
            "restore the file from a copy",
        )

    def path(self, root: Path, name: str) -> Path:
        """The path of the manifest of `name`.

        Raises:
            RunError: `name` is not a plain name, or its directory is a symbolic link.
        """
        if not is_component(name):
            raise RunError(
                f"{name!r} cannot be the name of a {self.noun}",
                where=str(root),
                fix="use a name of letters, digits, dots, dashes and underscores",
            )
        return inside(root, name) / self.file

    def names(self, root: Path) -> list[str]:
        """Names that have a manifest of this kind, sorted."""
        return [path.name for path in dirs_with(root, self.file)]

    def write(self, root: Path, name: str, manifest: Manifest, load: Callable[[Path, str], Manifest]) -> None:
        """Write a manifest atomically, keeping the creation time of a readable earlier one.

        Args:
            root: Directory of all runs.
            name: Name of the sweep or post-training.
            manifest: What to write.
            load: Reads the manifest that is there already, from `root` and `name`.

        Raises:
            TrackError: The name is reserved.
            RunError: It is not a plain name, or its directory is a symbolic link.
        """
        path = self.path(root, name)
        if name in RESERVED:
            raise TrackError(
                f"{name!r} cannot be the name of a {self.noun}",
                where=f"{root / name} holds something else",
                fix="choose another name",
            )
        first = manifest.created_ms
        with suppress(TrackError):  # one that cannot be read is replaced
            first = load(root, name).created_ms
        make_dir(path.parent)
        self.format(type(manifest)).write(path, replace(manifest, created_ms=first))

    def read(
        self, root: Path, name: str, format: Format[Manifest], check: Callable[[Manifest], None]
    ) -> Manifest:
        """The manifest of `name`.

        Args:
            root: Directory of all runs.
            name: Name of the sweep or post-training.
            format: See `format`.
            check: Raises Damaged where the record contradicts itself or its place.

        Raises:
            TrackError: There is no such manifest, or it cannot be read.
            RunError: `name` is not a plain name, or its directory is a symbolic link.
        """
        path = self.path(root, name)
        try:
            manifest = format.read(path)
            check(manifest)
        except FileNotFoundError:
            raise self.unknown(root, name) from None
        except Damaged as damage:
            raise format.refusal(path, damage) from None
        return manifest

    def unknown(self, root: Path, name: str) -> TrackError:
        """Return the error for a name that stands for nothing of this kind."""
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


SWEEP = ManifestKind("sweep", "sweep.json", "scalelab sweep")
POSTTRAINING = ManifestKind("post-training", "posttrain.json", "scalelab posttrain")
KINDS = (SWEEP, POSTTRAINING)


def check_name(stated: str, name: str) -> None:
    """Refuse a manifest that lies under another name than its own. Raises Damaged."""
    if stated != name:
        raise Damaged(f"it is that of {stated!r}, not of {name!r}")


def check_places(root: Path, places: Iterable[tuple[str, str]]) -> None:
    """Refuse work that a manifest places anywhere but in a directory of its own.

    Args:
        root: Of all runs.
        places: Pairs of an id and a directory relative to the root.

    Raises:
        Damaged: An id is not a plain name, or a directory is not two plain names.
        RunError: A directory is a symbolic link.
    """
    parents: set[str] = set()
    for id, dir in places:
        parent, _, last = dir.partition("/")
        if not is_component(id):
            raise Damaged(f"{id!r} is not a plain name")
        if not is_component(parent) or not is_component(last):
            raise Damaged(f"{dir!r} is not a directory NAME/ID below {root.name}")
        if parent not in parents:
            refuse_link(root / parent)
            parents.add(parent)
        refuse_link(root / dir)


def kinds_of(root: Path, name: str) -> list[ManifestKind]:
    """Return the kinds of manifest under a name: one, or both.

    Raises:
        TrackError: There is neither a sweep nor a post-training of that name.
    """
    found = [kind for kind in KINDS if exists(kind.path(root, name))]
    if not found:
        raise SWEEP.unknown(root, name)
    return found


def every_name(root: Path) -> list[str]:
    """Names that stand for work of any kind, sorted."""
    return sorted({name for kind in KINDS for name in kind.names(root)})
