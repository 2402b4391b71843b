"""A prepared corpus: tokenised once, named by its contents, opened in no time ever after.

    <cache>/keys/<key>.json         which corpus a config and the state of its source led to
    <cache>/corpora/<digest>/       manifest.json, tokenizer.json, the files of tokens.py
    <cache>/hashes/<source>.json    sha256 of source files already read
    <cache>/locks, <cache>/partial  one preparer at a time; what it has not finished

The key hashes what goes in: settings and source fingerprint. The digest hashes what came
out, so that equal digests mean equal tokens wherever the files came from. A training process
opens by digest and never reads the source.

Not here: passes over the text (encode.py), the order of training (stream.py).
"""

import hashlib
import json
import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.data.base import DataConfig, SplitName, TokenSource
from scalelab.data.encode import encoded, names_of, read
from scalelab.data.hashing import FileHashes
from scalelab.data.tokenizer import TextTokenizer
from scalelab.data.tokens import SHARD_TOKENS, TokenFile, TokenWriter, dtype_for
from scalelab.errors import DataError, LaunchError, RunError
from scalelab.files import locked, make_dir, whole_dir, write_json, writing
from scalelab.screen import progress

FORMAT = 1
"""Version of everything that decides the tokens of a config. Raise it and all is made anew."""


@dataclass(frozen=True)
class Corpus:
    """Tokens ready to train on, and what is known about them."""

    digest: str
    """Twelve hex digits of the contents: equal digests, equal tokens."""
    path: Path
    tokenizer: str
    """Kind, vocabulary size and a hash of what was learned: "bpe-1024-1a2b3c4d"."""
    vocab_size: int
    n_train: int
    """Training tokens."""
    n_validation: int
    """Validation tokens."""
    bytes_per_token: float | None
    """UTF-8 bytes per validation token, end-of-document tokens counted. None: not made of text."""
    entropy: float | None
    """True information of the validation tokens, nats per token, each given its document so
    far: the lowest loss there is. None: unknown, as in every real text."""
    manifest: dict[str, Any] = field(repr=False, compare=False)
    """Everything that was written down when it was prepared."""

    def tokens(self, split: SplitName) -> TokenFile:
        """One side's tokens, mapped from the disk."""
        shards = [self.path / name for name in self.manifest["splits"][split]["shards"]]
        return TokenFile.open(shards, dtype_for(self.vocab_size), self.path / f"{split}.ends")

    def nats(self) -> np.ndarray | None:
        """True information of each validation token, float32; None where it is unknown."""
        if self.entropy is None:
            return None
        return np.memmap(self.path / "validation.nats", dtype="<f4", mode="r")

    def load_tokenizer(self) -> TextTokenizer | None:
        """Text to tokens and back; None where there is no text."""
        return None if self.tokenizer_path is None else TextTokenizer.load(self.tokenizer_path)

    @property
    def tokenizer_path(self) -> Path | None:
        """The tokenizer.json, which transformers reads too; None where there is no text."""
        return None if self.bytes_per_token is None else self.path / "tokenizer.json"

    def bpb(self, loss: float) -> float | None:
        """A validation loss in nats per token as bits per byte; None where there is no text."""
        return None if self.bytes_per_token is None else loss / log(2) / self.bytes_per_token


def cache_dir() -> Path:
    """Where prepared corpora lie: $SCALELAB_CACHE, else scalelab in the user's cache."""
    if chosen := os.environ.get("SCALELAB_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scalelab"


def find(config: DataConfig, cache: Path | None = None) -> Corpus | None:
    """The prepared corpus, if it is there; nothing is prepared or written.

    Raises:
        DataError: The source cannot be read, or the prepared corpus is damaged.
    """
    cache = cache or cache_dir()
    key = _key(config, FileHashes(_memo(config, cache)))
    return _opened(key, cache)


def open_corpus(digest: str, cache: Path | None = None) -> Corpus:
    """The prepared corpus of this digest. Its source is not looked at.

    Raises:
        DataError: There is none, or a file of it is missing or has another size.
    """
    path = (cache or cache_dir()) / "corpora" / digest
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise _damaged(path, f"it is of format {manifest['format']}, not {FORMAT}")
        for name, written in manifest["files"].items():
            size = (path / name).stat().st_size
            if size != written["bytes"]:
                raise _damaged(path, f"{name} has {size} bytes, not {written['bytes']}")
        sides = manifest["splits"]
        return Corpus(
            digest,
            path,
            manifest["tokenizer"],
            manifest["vocab_size"],
            sides["train"]["n_tokens"],
            sides["validation"]["n_tokens"],
            manifest["bytes_per_token"],
            manifest["entropy"],
            manifest,
        )
    except FileNotFoundError as error:
        if not path.exists():
            raise DataError(
                f"there is no prepared corpus {digest}",
                where=str(path),
                fix="prepare it: run `scalelab sweep` on its file again",
            ) from None
        raise _damaged(path, f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise _damaged(path, f"cannot read it: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its manifest.json is not what was written") from error


def prepare(config: DataConfig, cache: Path | None = None) -> Corpus:
    """The corpus that a config describes: from the cache, or tokenised into it now.

    Callers at the same time wait for one of them to do the work. Killed in the middle, it
    leaves nothing that anyone would find.

    Raises:
        DataError: The source cannot be read, is too little, or the corpus is damaged.
        RunError: The cache cannot be written.
    """
    cache = cache or cache_dir()
    hashes = FileHashes(_memo(config, cache))
    key = _key(config, hashes)
    with suppress(RunError):  # the memo only saves time; a cache may be read-only
        hashes.save()
    if corpus := _opened(key, cache):
        return corpus
    with _waiting_lock(cache / "locks" / f"{key}.lock"):
        if corpus := _opened(key, cache):  # made by someone else while we waited
            return corpus
        digest = _prepare(config, key, cache)
        if _key(config, FileHashes(_memo(config, cache))) != key:
            raise DataError(
                "the source changed while it was being prepared",
                where=f"source: {config.source.model_dump_json()}",
                fix="wait until nothing writes to it, then run the same command again",
            )
        write_json(cache / "keys" / f"{key}.json", {"digest": digest})
    return open_corpus(digest, cache)


def _prepare(config: DataConfig, key: str, cache: Path) -> str:
    """Fill a directory and move it to its place. Returns the digest."""
    partial = cache / "partial" / key
    with writing(partial):
        shutil.rmtree(partial, ignore_errors=True)  # of a preparer that was killed
    make_dir(partial)
    try:
        manifest = _fill(config, partial)
        digest = manifest["digest"]
        place = cache / "corpora" / digest
        if not (place / "manifest.json").exists():
            with whole_dir(place) as directory:
                for file in list(partial.iterdir()):
                    os.replace(file, directory / file.name)
                write_json(directory / "manifest.json", manifest)
        return digest
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(config: DataConfig, directory: Path) -> dict[str, Any]:
    """Write every file but the manifest, which is returned."""
    if isinstance(config.source, TokenSource):
        vocab_size, about = config.source.vocab_size, {}
        # Its text has no tokenizer; what its tokens mean is named by its settings.
        tokenizer = f"{config.source.kind}-{vocab_size}-{config.source.digest[:8]}"
        documents = progress(config.source.encoded(config.validation), "writing the language")
        asked = vocab_size
    else:
        reading = read(config)
        reading.tokenizer.save(directory / "tokenizer.json")
        tokenizer, vocab_size = reading.tokenizer.name, reading.tokenizer.vocab_size
        asked = config.tokenizer.vocab_size if config.tokenizer.kind == "bpe" else vocab_size
        documents = encoded(config, reading)
        largest = reading.split.largest
        about = {
            "skipped": reading.skips.to_dict(),
            "n_clusters": reading.split.n_clusters,
            "largest_cluster": {
                "documents": len(largest),
                "bytes": reading.largest_bytes,
                "examples": names_of(config, largest[:5]),
            },
        }
    sides: dict[str, TokenWriter] = {}
    with ExitStack() as stack:
        for split in ("train", "validation"):
            writer = TokenWriter(directory, split, vocab_size, SHARD_TOKENS)
            sides[split] = stack.enter_context(writer)
        for document in documents:
            sides[document.split].add(document)
    held_out = sides["validation"]
    if not all(side.n_tokens for side in sides.values()):
        raise DataError(
            f"too little to divide: {sides['train'].n_tokens} training tokens,"
            f" {held_out.n_tokens} validation tokens",
            where=f"source: {config.source.model_dump_json()}",
            fix="ask for more documents, or hold out more (validation: 0.2)",
        )
    files = {name: entry for side in sides.values() for name, entry in side.files.items()}
    for extra in directory.glob("tokenizer.json"):
        data = extra.read_bytes()
        files[extra.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    contents = {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "dtype": dtype_for(vocab_size),
        "entropy": held_out.nats / held_out.n_tokens if held_out.nats else None,
        "bytes_per_token": held_out.n_bytes / held_out.n_tokens if held_out.n_bytes else None,
        "splits": {
            name: {
                "n_tokens": side.n_tokens,
                "n_documents": side.n_documents,
                "n_bytes": side.n_bytes,
                "shards": side.shards,
            }
            for name, side in sides.items()
        },
        "files": dict(sorted(files.items())),
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]
    return {
        "digest": digest,
        **contents,
        "vocab_size_planned": asked,
        "validation_planned": config.validation,
        "data": config.model_dump(mode="json"),
        **about,
    }


def _key(config: DataConfig, hashes: FileHashes) -> str:
    """Names what goes in: the settings that matter, the state of the source, our format."""
    settings = config.model_dump_json(exclude={"epochs"})
    parts = [settings, config.source.fingerprint(hashes), str(FORMAT)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _memo(config: DataConfig, cache: Path) -> Path:
    return cache / "hashes" / f"{config.source.digest}.json"


def _opened(key: str, cache: Path) -> Corpus | None:
    try:
        digest = json.loads((cache / "keys" / f"{key}.json").read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError):
        return None
    return open_corpus(digest, cache) if (cache / "corpora" / digest).exists() else None


@contextmanager
def _waiting_lock(path: Path):
    """Hold the lock, waiting as long as someone else does."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path, "another process prepares this corpus", "wait"))
                break
            except LaunchError:
                time.sleep(0.1)
        yield


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"the prepared corpus is damaged: {what}",
        where=str(path),
        fix="delete this directory, then run the same command again",
    )
