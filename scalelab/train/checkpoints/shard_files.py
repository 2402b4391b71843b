"""Files of a sharded checkpoint: torch's payloads, and an index of them that is not pickled.

    __0_0.distcp    chunks of tensors, one file for each process that wrote any
    metadata.json   sealed: every tensor's dtype, size and chunks, and where each chunk lies

torch's own index is a pickle (`.metadata`), and to unpickle a file is to run whatever it asks for.
This one is JSON whose types are checked. The chunks are read by torch with weights_only=True, which
makes tensors and nothing else. What is no tensor is refused when it is written and when it is read.

Every process hashes its own file while it writes it; the digests travel to the first process with
torch's own report of what was written.

Not here: which checkpoint is used, and the record of digests (sharded.py).
"""

import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Size, Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint.filesystem import FileSystem, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future
from torch.utils.serialization import config as serialization

from scalelab.sealed import Checksum, Damaged, Format, file_digest

INDEX_FILE = "metadata.json"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64)
}
_PAYLOAD = re.compile(r"__\d+_\d+\.distcp")
_SMALL = 65536
"""Bytes; less is hashed before it is written, since to wait for a thread takes longer."""


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor, and where its values lie."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    at: int
    """Where it begins in the file, bytes."""
    length: int
    """Bytes in the file."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in chunks."""

    dtype: str
    size: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class TensorIndex:
    """What stands in metadata.json."""

    tensors: dict[str, StoredTensor]


INDEX = Format("tensor index", TensorIndex, schema=1)


@dataclass(frozen=True)
class _Place:
    """Where one chunk was written, and the digest of that whole file."""

    file: str
    at: int
    length: int
    digest: str


class ShardWriter(FileSystemWriter):
    """torch's writer with the index above. Made anew for every checkpoint.

    Args:
        path: The directory to fill.
    """

    def __init__(self, path: Path):
        super().__init__(path, single_file_per_rank=True, sync_files=True)
        self.fs = self._hashed = _HashedFiles()
        self.files: dict[str, str] = {}
        """SHA-256 of every file by name; in the first process, once all is written."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's chunks. One that has none writes no file."""
        assert all(item.type != WriteItemType.BYTE_IO for item in plan.items), "tensors only"
        results, written = [], []
        if plan.items:
            # torch's own checksums take half as long as SHA-256, which covers the whole file.
            with serialization.patch("save.compute_crc32", False):
                written = super().write_data(plan, planner).value()
        for result in written:
            where = result.storage_data
            digest = self._hashed.digests[where.relative_path]
            place = _Place(where.relative_path, where.offset, where.length, digest)
            results.append(replace(result, storage_data=place))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index, in the first process."""
        places = {result.index: result.storage_data for part in results for result in part}
        self.files = {place.file: place.digest for place in places.values()}
        tensors = {
            name: _stored(name, tensor, places) for name, tensor in metadata.state_dict_metadata.items()
        }
        path = Path(self.path) / INDEX_FILE
        INDEX.write(path, TensorIndex(tensors))
        self.files[INDEX_FILE] = file_digest(path, Checksum)


class ShardReader(FileSystemReader):
    """torch's reader with an index that was read and checked before.

    Args:
        path: Of the checkpoint.
        index: What check_index found nothing wrong with.
    """

    def __init__(self, path: Path, index: TensorIndex):
        super().__init__(path)
        self._metadata = _metadata(index)

    def read_metadata(self) -> Metadata:
        """The index in torch's form. torch's own method unpickles `.metadata`."""
        return self._metadata


class TensorsOnly(DefaultLoadPlanner):
    """torch's planner without the way by which it unpickles what is no tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Refuse. Raises Damaged."""
        raise Damaged(f"{read_item.dest_index.fqn} is no tensor")


def check_index(index: TensorIndex, files: Mapping[str, str]) -> None:
    """Refuse an index that contradicts itself, or names a file whose digest is not known.

    Raises:
        Damaged: It does so.
    """
    for file in files:
        if file != INDEX_FILE and not _PAYLOAD.fullmatch(file):
            raise Damaged(f"meta.json names {file!r:.60}, which is no file of a checkpoint")
    for name, tensor in index.tensors.items():
        if tensor.dtype not in DTYPES:
            raise Damaged(f"{INDEX_FILE}: {name} has the dtype {tensor.dtype!r:.40}")
        for chunk in tensor.chunks:
            if chunk.file not in files or chunk.file == INDEX_FILE:
                raise Damaged(f"{INDEX_FILE}: {name} lies in {chunk.file!r:.60}, which has no digest")
            if not _is_inside(chunk, tensor.size):
                raise Damaged(f"{INDEX_FILE}: a chunk of {name} is not inside the tensor")
        if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.size):
            raise Damaged(f"{INDEX_FILE}: the chunks of {name} do not fill it")


def files_by_rank(index: TensorIndex, files: Iterable[str], n: int) -> list[list[str]]:
    """Return the payload files that each of n processes verifies, the same wherever it is computed.

    A process takes the file that its predecessor of the same rank wrote, which its machine may still have
    in memory. The others go, the largest first, to whoever has the fewest bytes to read.

    Args:
        index: Of the checkpoint.
        files: Names of its files.
        n: Number of processes.
    """
    sizes = dict.fromkeys(sorted(set(files) - {INDEX_FILE}), 0)
    for tensor in index.tensors.values():
        for chunk in tensor.chunks:
            sizes[chunk.file] += chunk.length
    taken: list[list[str]] = [[] for _ in range(n)]
    load = [0] * n
    for name in sorted(sizes, key=lambda name: (_rank_of(name) >= n, -sizes[name], name)):
        rank = _rank_of(name)
        rank = rank if rank < n else load.index(min(load))
        taken[rank].append(name)
        load[rank] += sizes[name]
    return taken


def _rank_of(name: str) -> int:
    """The process that wrote a payload file."""
    return int(name.split("_")[2])


def check_fit(index: TensorIndex, state: Mapping[str, Tensor]) -> None:
    """Refuse an index that lacks a tensor to be filled, or has it otherwise. Raises Damaged."""
    for name, tensor in state.items():
        if name not in index.tensors:
            raise Damaged(f"{INDEX_FILE} has no tensor {name}")
        stored = index.tensors[name]
        if stored.size != tuple(tensor.shape) or DTYPES[stored.dtype] != tensor.dtype:
            raise Damaged(
                f"{INDEX_FILE}: {name} is {stored.dtype} {list(stored.size)}, not "
                f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            )


def _is_inside(chunk: Chunk, size: tuple[int, ...]) -> bool:
    if not len(chunk.offsets) == len(chunk.sizes) == len(size):
        return False
    dimensions = zip(chunk.offsets, chunk.sizes, size, strict=True)
    return (
        all(low >= 0 and n >= 0 and low + n <= whole for low, n, whole in dimensions)
        and chunk.at >= 0
        and chunk.length >= 0
    )


def _stored(name: str, tensor: TensorStorageMetadata, places: dict[MetadataIndex, _Place]) -> StoredTensor:
    chunks = []
    for chunk in tensor.chunks:
        place = places[MetadataIndex(name, chunk.offsets)]
        sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        chunks.append(Chunk(*sizes, place.file, place.at, place.length))
    dtype = str(tensor.properties.dtype).removeprefix("torch.")
    assert dtype in DTYPES, dtype
    return StoredTensor(dtype, tuple(tensor.size), tuple(chunks))


def _metadata(index: TensorIndex) -> Metadata:
    tensors, places = {}, {}
    for name, stored in index.tensors.items():
        boxes = [ChunkStorageMetadata(Size(c.offsets), Size(c.sizes)) for c in stored.chunks]
        properties = TensorProperties(DTYPES[stored.dtype])
        tensors[name] = TensorStorageMetadata(properties, Size(stored.size), boxes)
        for chunk in stored.chunks:
            place = _StorageInfo(chunk.file, chunk.at, chunk.length)
            places[MetadataIndex(name, chunk.offsets)] = place
    return Metadata(tensors, storage_data=places)


class _HashedFiles(FileSystem):
    """torch's files, hashed while they are written."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator["_HashedFile"]:
        """A file to write."""
        with ThreadPoolExecutor(1, "digest") as beside, open(path, mode) as file:
            hashed = _HashedFile(file, beside)
            yield hashed
        self.digests[Path(path).name] = hashed.digest.hexdigest()


class _HashedFile:
    """A file whose checksum is taken while it is written, from its beginning on."""

    def __init__(self, file: IO[bytes], beside: ThreadPoolExecutor):
        self._file, self._beside, self.digest = file, beside, Checksum()

    def write(self, data: memoryview) -> int:
        """Write and hash, side by side: torch's memory is its own again when this returns."""
        if len(data) < _SMALL:
            self.digest.update(data)
            return self._file.write(data)
        hashed = self._beside.submit(self.digest.update, data)
        try:
            return self._file.write(data)
        finally:
            hashed.result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
