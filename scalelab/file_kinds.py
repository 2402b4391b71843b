"""What a file or directory is, by its keys or contents, and which command takes it.

A command that is given another kind of file than it takes names the right command instead of listing
keys that are missing. A path where nothing is gets the nearest one as a suggestion.

Not here: which keys a kind of file has (the configs).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scalelab.errors import ConfigError, ScalelabError
from scalelab.yaml_document import YamlDocument, read

YAML_ENDINGS = (".yaml", ".yml")
TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".feather", ".arrow", ".xlsx")
"""Endings of files that are taken for tables of runs. Files of JSON can be anything."""
PACKED_ENDINGS = (".gz", ".zst", ".bz2", ".xz", ".zip")
"""Endings of compressed files, after the one of the kind."""
EXTENDS = "extends"
"""Key of the path of the file that a file extends (extendable.py)."""
MOST_BASES = 8
"""Files that may extend one another in a row."""
FOLDERS = (".", "sweeps", "sweeps/posttrain", "sweeps/eval")
"""Directories in which a name without a directory is searched."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file or directory that a command takes."""

    name: str
    """With its article: "a sweep file"."""
    command: str
    """Command line that takes it, with PATH in its place."""
    keys: tuple[str, ...] = ()
    """Keys that together no other kind of file has."""
    files: tuple[str, ...] = ()
    """Files that a directory of this kind has."""


KINDS = {
    "sweep": FileKind("a sweep file", "scalelab sweep PATH", ("recipe", "design")),
    "tune": FileKind("a tuning file", "scalelab tune PATH", ("extends", "fields")),
    "posttrain": FileKind("a post-training file", "scalelab posttrain PATH", ("base", "data", "stages")),
    "curation": FileKind("a curation file", "scalelab data PATH", ("name", "source", "stages")),
    "eval": FileKind("an evaluation file", "scalelab eval PATH", ("models",)),
    "rates": FileKind("a file of rates", "scalelab plan ... --rates PATH", ("as_of",)),
    "run": FileKind("a run's spec.yaml", "scalelab run PATH", ("data_digest", "batch_tokens", "n_steps")),
    "stage": FileKind(
        "a stage's spec.yaml", "scalelab posttrain FILE.yaml", ("stage", "given", "data_digest")
    ),
    "plan": FileKind("a plan", "scalelab launch PATH", files=("plan.json",)),
    "model": FileKind("a model", "scalelab export PATH DIR", files=("model.safetensors", "config.json")),
    "run directory": FileKind("a run directory", "scalelab run PATH", files=("spec.yaml",)),
    "sweep directory": FileKind("the directory of a sweep", "scalelab fit NAME", files=("sweep.json",)),
    "stages directory": FileKind(
        "the directory of a post-training", "scalelab runs NAME", files=("posttrain.json",)
    ),
    "table": FileKind("a table of runs", "scalelab fit PATH"),
}


def kind_of(data: Mapping[str, Any]) -> str | None:
    """Return the kind of a YAML file with these contents; None where it is none of them."""
    return next((name for name, kind in KINDS.items() if kind.keys and set(kind.keys) <= data.keys()), None)


def kind_of_path(path: Path) -> str | None:
    """Return the kind of a file or directory; None where it is unknown or cannot be read."""
    if os.path.isdir(path):  # False where it may not be looked at; pathlib raises
        has = {n: all(os.path.isfile(path / f) for f in k.files) for n, k in KINDS.items() if k.files}
        return next((name for name, all_there in has.items() if all_there), None)
    unpacked = path.with_suffix("") if path.suffix.lower() in PACKED_ENDINGS else path
    if unpacked.suffix.lower() in TABLE_ENDINGS and os.path.isfile(path):
        return "table"
    if path.name == "plan.json":
        return "plan"
    if path.suffix.lower() not in YAML_ENDINGS:
        return None
    try:
        for _ in range(MOST_BASES):
            data = read(path).data
            found, base = kind_of(data), data.get(EXTENDS)
            if found is not None or not isinstance(base, str):
                return found
            path = Path(base)
    except ScalelabError:
        pass
    return None


def refuse_other_kind(document: YamlDocument, expected: str) -> None:
    """Refuse a YAML file that is clearly of another kind.

    Args:
        document: Contents of the file.
        expected: Kind that the command takes, of KINDS.

    Raises:
        ConfigError: The file has all the keys of another kind, and not those of the expected one.
    """
    found = kind_of(document.data)
    if found in {None, expected} or set(KINDS[expected].keys) <= document.data.keys():
        return
    where = document.place((KINDS[found].keys[0],))
    raise _refusal(document.name, found, expected, f"{where}: {KINDS[found].keys[0]}")


def refuse_other_path(path: Path, *expected: str) -> None:
    """Refuse a file or directory that is clearly of another kind, before it is read.

    Args:
        path: Path that a command was given.
        expected: Kinds that the command takes, of KINDS; the first is named in the message.

    Raises:
        ConfigError: The path is of another known kind.
    """
    found = kind_of_path(path)
    if found is not None and found not in expected:
        raise _refusal(str(path), found, expected[0], str(path))
    is_folder = found is None and KINDS[expected[0]].keys and os.path.isdir(path)
    if is_folder and (inside := _yaml_files(path)):
        raise ConfigError(
            f"{path} is a directory, and {KINDS[expected[0]].name} is needed",
            where=str(path),
            fix=f"name a file in it: {', '.join(map(str, inside[:4]))}",
        )


def similar_path(path: Path) -> Path | None:
    """Return the YAML file that a path without a file was probably meant to be."""
    folders = [path.parent] if path.parent != Path() else [Path(folder) for folder in FOLDERS]
    there = [file for folder in folders for file in _yaml_files(folder)]
    if same := [file for file in there if path.name in {file.name, file.stem} or path.stem == file.stem]:
        return same[0]
    by_stem = {file.stem: file for file in reversed(there)}
    close = get_close_matches(path.stem, by_stem, n=1)
    return by_stem[close[0]] if close else None


def command_for(path: Path) -> str | None:
    """Return the command line that takes a file or directory; None where it is of no known kind."""
    found = kind_of_path(path)
    return None if found is None else _command(found, str(path))


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in YAML_ENDINGS)
    except OSError:
        return []


def _command(kind: str, path: str) -> str:
    name = Path(path).name
    return KINDS[kind].command.replace("PATH", path).replace("NAME", name)


def _refusal(path: str, found: str, expected: str, where: str) -> ConfigError:
    return ConfigError(
        f"{path} is {KINDS[found].name}, not {KINDS[expected].name}",
        where=where,
        fix=f"use it with {_command(found, path)}, or name {KINDS[expected].name}",
    )
