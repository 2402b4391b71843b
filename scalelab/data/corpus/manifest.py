"""The manifest of a prepared corpus: what it holds, and the digest of every file of it.

    <cache>/corpora/<digest>/manifest.json    sealed (sealed.py)

The digest that names the directory is that of the manifest's contents: all that decides the
tokens and how they are read. It is computed again whenever a manifest is read, also for manifests
from before the seals, so equal names mean equal tokens. The rest of a manifest is what it was
made from, for people to read.

Not here: whether the files are what the manifest says (verification.py).
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalelab.data.corpus.token_files import CorpusFile, dtype_for
from scalelab.errors import DataError
from scalelab.files import check_answered, is_component
from scalelab.sealed import Damaged, Format

TOKENS_FORMAT = 1
"""Version of everything that decides the tokens of a config. Raise it and all is made anew."""
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class CorpusSide:
    """One side of a corpus: training or validation."""

    n_tokens: int
    n_documents: int
    n_bytes: int
    """UTF-8 bytes of the text; 0 where there is no text."""
    shards: tuple[str, ...]
    """Names of the token files, in order."""


@dataclass(frozen=True)
class CorpusManifest:
    """Everything that was written down when a corpus was prepared."""

    digest: str
    """See contents_digest."""
    format: int
    """TOKENS_FORMAT when it was made."""
    tokenizer: str
    vocab_size: int
    dtype: str
    entropy: float | None
    """Nats per validation token; None: unknown."""
    bytes_per_token: float | None
    splits: dict[str, CorpusSide]
    files: dict[str, CorpusFile]
    vocab_size_planned: int
    validation_planned: float
    data: dict[str, Any]
    """The DataConfig."""
    skipped: dict[str, Any] | None = None
    """Documents that were left out, by reason; None where there is no text."""
    n_clusters: int | None = None
    largest_cluster: dict[str, Any] | None = None
    domains: dict[str, dict[str, int]] | None = None
    """Tokens of each domain by side, in the order in which they lie; None where there are no domains."""


_CONTENTS = ("format", "tokenizer", "vocab_size", "dtype", "entropy", "bytes_per_token", "splits", "files")
"""What the digest covers. Run ids depend on it: neither add nor remove a field, here or below."""

MANIFEST = Format("corpus manifest", CorpusManifest, schema=2, error=DataError, unsealed=0)


def contents_digest(manifest: CorpusManifest) -> str:
    """Twelve hex digits of the contents: equal digests, equal tokens."""
    plain = asdict(manifest)
    covered = {name: plain[name] for name in _CONTENTS}
    if manifest.domains is not None:  # as pairs: their order counts
        covered["domains"] = {side: [*tokens.items()] for side, tokens in manifest.domains.items()}
    contents = json.dumps(covered, sort_keys=True)
    return hashlib.sha256(contents.encode()).hexdigest()[:12]


def validation_digest(manifest: CorpusManifest) -> str:
    """Twelve hex digits of the validation side and its tokenizer, whatever the training side is."""
    names = [*manifest.splits["validation"].shards, "validation.ends", "tokenizer.json"]
    files = {name: asdict(manifest.files[name]) for name in names if name in manifest.files}
    contents = {"tokenizer": manifest.tokenizer, "dtype": manifest.dtype, "files": files}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]


def read_manifest(directory: Path) -> CorpusManifest:
    """The manifest of a corpus directory, after every check that needs no reading of its files.

    Raises:
        DataError: The manifest or a file is missing, is not what was written, or has another size.
    """
    try:
        _stat(directory, MANIFEST_NAME)
        manifest = MANIFEST.read(directory / MANIFEST_NAME)
        if manifest.format != TOKENS_FORMAT:
            raise Damaged(f"its tokens are of format {manifest.format}, not {TOKENS_FORMAT}")
        if not contents_digest(manifest) == manifest.digest == directory.name:
            raise Damaged(f"the contents of {MANIFEST_NAME} do not have the directory's digest")
        _refuse_names(manifest)
        for name, written in manifest.files.items():
            size = _stat(directory, name).st_size
            if size != written.bytes:
                raise Damaged(f"{name} has {size} bytes, not {written.bytes}")
    except DataError as error:
        raise damaged_corpus(directory, error.problem) from error
    except Damaged as damage:
        raise damaged_corpus(directory, damage) from None
    except FileNotFoundError:
        raise damaged_corpus(directory, f"{MANIFEST_NAME} is missing") from None
    return manifest


def signatures(directory: Path, names: Mapping[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    """Inode, size, time of modification and time of change of each file; the times in ns.

    Raises:
        Damaged: One is missing, or is not a plain file.
    """
    found = {}
    for name in names:
        there = _stat(directory, name)
        found[name] = (there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns)
    return found


def damaged_corpus(directory: Path, what: object) -> DataError:
    """The error about a corpus that does not hold."""
    return DataError(
        f"the prepared corpus is damaged: {what}",
        where=str(directory),
        fix="delete this directory, then run the same command again; if that command only reads"
        " the corpus, prepare it first: scalelab data FILE.yaml",
    )


def _stat(directory: Path, name: str):
    """The state of a plain file; links are not followed. Raises Damaged or NoAnswer."""
    try:
        there = (directory / name).lstat()
    except FileNotFoundError:
        raise Damaged(f"{name} is missing") from None
    except OSError as error:
        check_answered(directory / name, error)
        raise Damaged(f"{name} cannot be read: {error.strerror}") from None
    if stat.S_ISLNK(there.st_mode):
        raise Damaged(f"{name} is a symbolic link")
    if not stat.S_ISREG(there.st_mode):
        raise Damaged(f"{name} is not a file")
    return there


def _refuse_names(manifest: CorpusManifest) -> None:
    """Refuse files outside the directory, and a corpus without the files it needs."""
    for name in manifest.files:
        if not is_component(name):
            raise Damaged(f"{name!r:.60} is not the name of a file in this directory")
    if set(manifest.splits) != {"train", "validation"}:
        raise Damaged(f"its sides are {[*manifest.splits]!r:.60}, not train and validation")
    if manifest.dtype != dtype_for(manifest.vocab_size):
        raise Damaged(f"its tokens are stored as {manifest.dtype!r:.20}")
    needed = [f"{split}.ends" for split in manifest.splits]
    needed += [shard for side in manifest.splits.values() for shard in side.shards]
    if manifest.entropy is not None:
        needed.append("validation.nats")
    if manifest.bytes_per_token is not None:
        needed.append("tokenizer.json")
    if missing := sorted(set(needed) - set(manifest.files)):
        raise Damaged(f"{missing[0]!r:.60} is not among its files")
