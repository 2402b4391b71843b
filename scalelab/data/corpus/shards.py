"""A prepared corpus: tokenised once, named by its contents, opened by its name.

    <cache>/keys/<key>.json         which corpus a config and the state of its source led to
    <cache>/corpora/<digest>/       manifest.json, tokenizer.json, the files of token_files.py
    <cache>/stamps/                 which of these files a machine has verified
    <cache>/hashes/<source>.json    sha256 of source files already read
    <cache>/locks, <cache>/partial  one preparer at a time; what it has not finished

The key hashes what goes in: settings and source fingerprint. The digest hashes what came
out, so that equal digests mean equal tokens wherever the files came from. A training process
opens by digest and never reads the source.

Opening a corpus checks its manifest and the sizes of its files. Their content is verified when it
is first used: a command that needs only the tokenizer does not wait for the tokens.

Not here: passes over the text (encode.py), what a manifest holds (manifest.py), what was verified
already (verification.py), the order of training (stream.py).
"""

import hashlib
import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from math import inf, log
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.config import later_fields
from scalelab.data.base import DataConfig, SplitName, TextSource, TokenSource
from scalelab.data.corpus import verification
from scalelab.data.corpus.encode import encoded, names_of, read
from scalelab.data.corpus.manifest import (
    MANIFEST,
    MANIFEST_NAME,
    TOKENS_FORMAT,
    CorpusManifest,
    CorpusSide,
    contents_digest,
    read_manifest,
    validation_digest,
)
from scalelab.data.corpus.token_files import SHARD_TOKENS, CorpusFile, TokenFile, TokenWriter, dtype_for
from scalelab.data.hashing import FileHashes
from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import DataError, RunError
from scalelab.files import exists, is_component, make_dir, matching, sweep_partials, whole_dir
from scalelab.leases import LeaseTaken, hold
from scalelab.screen import note, progress
from scalelab.sealed import Format


@dataclass(frozen=True)
class CorpusKey:
    """Which corpus a config led to: the content of a file of keys."""

    digest: str
    key: str | None = None
    """The name of the file that it was written to; None before the seals."""


KEY = Format("corpus key", CorpusKey, schema=2, error=DataError, unsealed=0)


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
    manifest: CorpusManifest = field(repr=False, compare=False)
    """Everything that was written down when it was prepared."""

    def tokens(self, split: SplitName) -> TokenFile:
        """One side's tokens, mapped from the disk. Raises DataError where they are damaged."""
        shards, ends = self.manifest.splits[split].shards, f"{split}.ends"
        self.verify(*shards, ends)
        paths = [self.path / name for name in shards]
        return TokenFile.open(paths, dtype_for(self.vocab_size), self.path / ends)

    def nats(self) -> np.ndarray | None:
        """True information of each validation token, float32; None where it is unknown.

        Raises:
            DataError: The file is damaged.
        """
        if self.entropy is None:
            return None
        self.verify("validation.nats")
        return np.memmap(self.path / "validation.nats", dtype="<f4", mode="r")

    def load_tokenizer(self) -> TextTokenizer | None:
        """Text to tokens and back; None where there is no text. Raises DataError if damaged."""
        if self.tokenizer_path is None:
            return None
        self.verify(self.tokenizer_path.name)
        return TextTokenizer.load(self.tokenizer_path)

    @property
    def tokenizer_path(self) -> Path | None:
        """Where tokenizer.json lies, not verified; None where there is no text."""
        return None if self.bytes_per_token is None else self.path / "tokenizer.json"

    @property
    def validation_digest(self) -> str:
        """Twelve hex digits of the validation tokens and what they mean: equal digests, equal evaluation tokens."""
        return validation_digest(self.manifest)

    def verify(self, *names: str) -> None:
        """Refuse files that are not what was written; without names, any file of the corpus.

        Raises:
            DataError: A file is missing or does not match its SHA-256.
        """
        files = self.manifest.files
        verification.verify(self.path, {name: files[name] for name in names or files})

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
        DataError: There is none, its manifest is damaged, or a file of it is missing or has
            another size.
    """
    path = (cache or cache_dir()) / "corpora" / digest
    if not is_component(digest) or not exists(path):
        raise DataError(
            f"there is no prepared corpus {digest}",
            where=str(path),
            fix="prepare it: run `scalelab sweep` on its file again",
        )
    manifest = read_manifest(path)
    return Corpus(
        digest,
        path,
        manifest.tokenizer,
        manifest.vocab_size,
        manifest.splits["train"].n_tokens,
        manifest.splits["validation"].n_tokens,
        manifest.bytes_per_token,
        manifest.entropy,
        manifest,
    )


def prepare(config: DataConfig, cache: Path | None = None) -> Corpus:
    """The corpus that a config describes, verified: from the cache, or tokenised into it now.

    Callers at the same time wait for one of them to do the work. Killed in the middle, it leaves
    nothing that anyone would find, and the next caller that succeeds removes what it left.

    Raises:
        DataError: The source cannot be read, is too little, or the corpus is damaged.
        RunError: The cache cannot be written.
    """
    cache = cache or cache_dir()
    hashes = FileHashes(_memo(config, cache))
    key = _key(config, hashes)
    with suppress(RunError):  # the memo only saves time; a cache may be read-only
        hashes.save()
    corpus = _opened(key, cache)
    if corpus is None:
        others = "another process prepares this corpus"
        with hold(cache / "locks" / key, others, "wait for it", wait_s=inf) as lease:
            # Another process may have made it while we waited.
            corpus = _opened(key, cache) or _prepare(config, key, lease.held.nonce, cache)
    corpus.verify()
    _remove_leftovers(cache)
    return corpus


def _prepare(config: DataConfig, key: str, nonce: str, cache: Path) -> Corpus:
    """Fill a directory, move it to its place and write down the key."""
    for killed in matching(cache / "partial", f"{key}*"):
        shutil.rmtree(killed, ignore_errors=True)  # else the disk would have to hold both
    # A preparer that was only suspended, and lost its lease, must not write into ours.
    partial = make_dir(cache / "partial" / f"{key}-{nonce}")
    try:
        corpus = _place(partial, _fill(config, partial), cache)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if left_out := corpus.manifest.skipped:
        counts = ", ".join(f"{found['count']:,} {reason}" for reason, found in left_out.items())
        note(f"left out of the corpus: {counts} (scalelab data FILE.yaml gives examples)")
    if _key(config, FileHashes(_memo(config, cache))) != key:
        raise DataError(
            "the source changed while it was being prepared",
            where=f"source: {config.source.model_dump_json()}",
            fix="wait until nothing writes to it, then run the same command again",
        )
    KEY.write(cache / "keys" / f"{key}.json", CorpusKey(corpus.digest, key))
    return corpus


def _place(partial: Path, manifest: CorpusManifest, cache: Path) -> Corpus:
    """Move files to the directory of their digest, unless a sound corpus is there already."""
    place = cache / "corpora" / manifest.digest
    others = "another process writes this corpus"
    with hold(cache / "locks" / manifest.digest, others, "wait for it", wait_s=inf):
        with suppress(DataError):  # there is none, or it is damaged: this one replaces it
            corpus = open_corpus(manifest.digest, cache)
            corpus.verify()
            return corpus
        with whole_dir(place) as directory:
            for file in list(partial.iterdir()):
                os.replace(file, directory / file.name)
            MANIFEST.write(directory / MANIFEST_NAME, manifest)
        verification.stamp_as_written(place, manifest.files)
        return open_corpus(manifest.digest, cache)


def _remove_leftovers(cache: Path) -> None:
    """Remove what killed preparers left; whoever is alive holds the lease of what it writes."""
    for directory in ("keys", "hashes", "stamps", "locks"):
        sweep_partials(cache / directory)
    unfinished = [(path, path.name.split("-")[0]) for path in matching(cache / "partial")]
    for path in matching(cache / "corpora", ".*.partial"):
        unfinished.append((path, path.name.split(".")[1]))
    for path, lease in unfinished:
        if not is_component(lease):
            continue
        with suppress(LeaseTaken, RunError), hold(cache / "locks" / lease, "in use", "wait"):
            shutil.rmtree(path, ignore_errors=True)


def _fill(config: DataConfig, directory: Path) -> CorpusManifest:
    """Write every file but the manifest, which is returned."""
    if isinstance(config.source, TokenSource):
        vocab_size = config.source.vocab_size
        about: dict[str, Any] = {}
        tokenizer = config.source.tokenizer_name
        documents = progress(config.source.encoded(config.validation), "writing tokens")
        asked = vocab_size
    else:
        reading = read(config)
        reading.tokenizer.save(directory / "tokenizer.json")
        tokenizer, vocab_size = reading.tokenizer.name, reading.tokenizer.vocab_size
        asked = config.tokenizer.planned_vocab_size()
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
    for extra in matching(directory, "tokenizer.json"):
        data = extra.read_bytes()
        files[extra.name] = CorpusFile(len(data), hashlib.sha256(data).hexdigest())
    domains = {name: side.domains for name, side in sides.items()}
    manifest = CorpusManifest(
        digest="",
        format=TOKENS_FORMAT,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        dtype=dtype_for(vocab_size),
        entropy=held_out.nats / held_out.n_tokens if held_out.nats else None,
        bytes_per_token=held_out.n_bytes / held_out.n_tokens if held_out.n_bytes else None,
        splits={
            name: CorpusSide(side.n_tokens, side.n_documents, side.n_bytes, tuple(side.shards))
            for name, side in sides.items()
        },
        files=dict(sorted(files.items())),
        vocab_size_planned=asked,
        validation_planned=config.validation,
        data=config.model_dump(mode="json"),
        domains=domains if any(domains.values()) else None,
        **about,
    )
    return replace(manifest, digest=contents_digest(manifest))


def _key(config: DataConfig, hashes: FileHashes) -> str:
    """Names what goes in: the settings that matter, the state of the source, our format."""
    settings = config.model_dump_json(exclude=later_fields(config, 1) | {"epochs": True, "weights": True})
    parts = [settings, config.source.fingerprint(hashes), str(TOKENS_FORMAT)]
    if files := config.tokenizer.fingerprint(hashes):
        parts.append(files)
    if config.held_out is not None:
        parts.append(config.held_out.fingerprint(hashes))
    if any(
        isinstance(each, TextSource) and each.may_state_sides for each in (config.source, config.held_out)
    ):
        parts.append("copies of stated validation text are left out")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _memo(config: DataConfig, cache: Path) -> Path:
    return cache / "hashes" / f"{config.source.digest}.json"


def _opened(key: str, cache: Path) -> Corpus | None:
    """The corpus that a key leads to; None where there is no key to believe, or no corpus."""
    try:
        found = KEY.read(cache / "keys" / f"{key}.json")
    except (FileNotFoundError, DataError):
        return None
    is_there = is_component(found.digest) and exists(cache / "corpora" / found.digest)
    return open_corpus(found.digest, cache) if is_there and found.key in (key, None) else None


def tokens_of_domains(corpus: str) -> dict[str, float] | None:
    """Return the training tokens of each domain of a prepared corpus; None where it is not there."""
    try:
        found = open_corpus(corpus).manifest.domains
    except DataError:
        return None
    return None if found is None else {name: float(n) for name, n in found["train"].items()}
