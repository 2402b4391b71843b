"""Checkpoints of a launched run, in one process: verified, never unpickled, nothing left over.

Those of several processes are in tests/launch/test_ranks.py.
"""

import json
import os
import pickle
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from scalelab.errors import RunError
from scalelab.hardware.device import find_device
from scalelab.leases import LeaseTaken
from scalelab.sealed import Checksum, Damaged, file_digest
from scalelab.train.checkpoints import shard_files, sharded
from scalelab.train.checkpoints.shard_files import INDEX, INDEX_FILE, StoredTensor, TensorIndex, TensorsOnly
from scalelab.train.checkpoints.sharded import META, Saver, ShardedMeta, leave
from scalelab.train.checkpoints.unsharded import Progress, parse_file
from scalelab.train.engines.single import SingleEngine

sys.path.insert(0, str(Path(__file__).parent))
from damage import HARMS, copy, harm, rename_in

RUN = "0123456789ab"
PAYLOAD = "__0_0.distcp"
FILES = ("meta.json", INDEX_FILE, PAYLOAD)
NEWEST = "sharded-00000040"


def progress(step):
    return Progress(step, 3.25, 7, [[10, 2560, 5.5]], [[4, 1024, 5.75]], 12.5, 1.5, 8, 2, 3)


@pytest.fixture
def engine(tiny_spec):
    yield SingleEngine(tiny_spec(), find_device(), "fp32", 8)
    leave()


def fill(engine, seed):
    """Give the engine the state that belongs to a step, and its updates."""
    draw = torch.Generator().manual_seed(seed)
    for _, tensor in sorted(engine.state().items()):
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    engine.restored(seed - 3)


def is_of(engine, seed):
    draw = torch.Generator().manual_seed(seed)
    return engine.updates == seed - 3 and all(
        torch.equal(tensor, torch.randn(tensor.shape, generator=draw))
        for _, tensor in sorted(engine.state().items())
    )


def save(saver, step):
    fill(saver.engine, step)
    saver.begin(progress(step))
    assert saver.wait() == step


def restored(folder, engine, run=RUN):
    """Restore into an engine that holds something else."""
    fill(engine, 99)
    return Saver(folder, run, engine).restore()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return {}


@pytest.fixture
def folder(two, engine, tmp_path, tmp_path_factory):
    """A copy of two checkpoints, of steps 20 and 40."""
    if not two:
        two["folder"] = tmp_path_factory.mktemp("run") / "checkpoints"
        saver = Saver(two["folder"], RUN, engine)
        save(saver, 20)
        save(saver, 40)
        leave()
    return copy(two["folder"], tmp_path / "checkpoints")


def test_the_newest_checkpoint_comes_back(folder, engine):
    found, passed_over = restored(folder, engine)

    assert found == progress(40)
    assert passed_over == []
    assert is_of(engine, 40)


def test_a_checkpoint_is_three_kinds_of_files_all_under_a_digest(folder):
    place = folder / NEWEST
    names = {file.name for file in place.iterdir()}
    meta = parse_file(META, place / "meta.json")

    assert names == set(FILES)
    assert meta.files == {name: file_digest(place / name, Checksum) for name in names - {"meta.json"}}
    assert (meta.run, meta.updates) == (RUN, 37)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, engine, file, how):
    harm(folder / NEWEST / file, how)

    found, passed_over = restored(folder, engine)

    assert found == progress(20)
    assert is_of(engine, 20)
    assert len(passed_over) == 1
    assert passed_over[0].startswith(f"{NEWEST}: {file}")


@pytest.mark.parametrize("file", [INDEX_FILE, PAYLOAD])
def test_a_renamed_tensor_gives_way_to_the_one_before(folder, engine, file):
    name = "weight/" if file == INDEX_FILE else "data.pkl"
    rename_in(folder / NEWEST / file, name, name.upper())

    assert restored(folder, engine)[0] == progress(20)
    assert is_of(engine, 20)


def test_without_a_checkpoint_that_holds_there_is_none(folder, engine):
    for place in folder.iterdir():
        harm(place / PAYLOAD, "flipped 0")

    found, passed_over = restored(folder, engine)

    assert found is None
    assert len(passed_over) == 2
    assert is_of(engine, 99)


def test_a_checkpoint_of_another_run_is_an_error_whatever_its_tensors(folder, engine):
    harm(folder / NEWEST / PAYLOAD, "flipped 0")

    with pytest.raises(RunError, match=f"belongs to run {RUN}, not to ba9876543210") as error:
        restored(folder, engine, "ba9876543210")
    assert "fix:" in str(error.value)


def test_damaged_checkpoints_do_not_push_out_those_that_follow_from_before_them(folder, engine):
    for place in folder.iterdir():
        harm(place / PAYLOAD, "flipped 0")

    save(Saver(folder, RUN, engine), 10)

    assert [place.name for place in folder.iterdir()] == ["sharded-00000010"]
    assert restored(folder, engine)[0] == progress(10)


def test_other_names_are_no_checkpoints(folder, engine):
    copy(folder / "sharded-00000020", folder / "sharded-00000050-copy")
    (folder / "sharded-notes").write_text("mine")

    assert restored(folder, engine)[0] == progress(40)


def test_what_a_killed_writer_left_is_removed_on_the_next_start(folder, engine):
    copy(folder / NEWEST, folder / ".sharded-00000060")

    Saver(folder, RUN, engine)

    assert sorted(p.name for p in folder.iterdir()) == ["sharded-00000020", NEWEST]


def test_a_full_disk_is_an_error_with_a_fix_and_leaves_nothing_half_there(folder, engine):
    saver = Saver(folder, RUN, engine)
    fill(engine, 60)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a checkpoint is larger
    try:
        saver.begin(progress(60))
        with pytest.raises(RunError, match="cannot write sharded-00000060") as error:
            saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "fix:   free some space" in str(error.value)
    assert sorted(p.name for p in folder.iterdir()) == ["sharded-00000020", NEWEST]
    assert restored(folder, engine)[0] == progress(40)


# Nothing is unpickled


class Command:
    """What runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """A file that the command makes; there must be none in the end."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Command(path)))
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


def test_a_pickled_index_beside_a_checkpoint_is_not_looked_at(folder, engine, mark):
    (folder / NEWEST / ".metadata").write_bytes(pickle.dumps(Command(mark)))

    assert restored(folder, engine)[0] == progress(40)
    assert is_of(engine, 40)


def made_old(place, content):
    """A checkpoint in the form from before metadata.json."""
    (place / ".metadata").write_bytes(pickle.dumps(content))
    (place / INDEX_FILE).unlink()
    meta = {"spec": RUN, "updates": 37, "progress": vars(progress(40)), "files": {}}
    (place / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("is_crafted", [False, True])
def test_a_checkpoint_with_a_pickled_index_gives_way_to_the_one_before(folder, engine, mark, is_crafted):
    made_old(folder / NEWEST, Command(mark) if is_crafted else Metadata({}))

    found, passed_over = restored(folder, engine)

    assert found == progress(20)
    assert is_of(engine, 20)
    assert "an older version of scalelab" in passed_over[0]
    assert "nothing is unpickled" in passed_over[0]


def test_a_run_that_has_only_pickled_checkpoints_is_not_begun_again(folder, engine, mark):
    for place in folder.iterdir():
        made_old(place, Command(mark))

    with pytest.raises(RunError, match="nothing is unpickled") as error:
        restored(folder, engine)
    assert "with the version of scalelab that began it" in str(error.value)


def resealed(place, change):
    """A checkpoint whose seals were made anew after a change of its index."""
    index = change(parse_file(INDEX, place / INDEX_FILE))
    INDEX.write(place / INDEX_FILE, index)
    meta = parse_file(META, place / "meta.json")
    files = {name: file_digest(place / name, Checksum) for name in meta.files}
    META.write(place / "meta.json", ShardedMeta(meta.run, meta.updates, meta.progress, files))


def with_first(index, **changes):
    """An index with a change of its first tensor, or of that one's first chunk."""
    name, tensor = next(iter(index.tensors.items()))
    chunk = vars(tensor.chunks[0]) | {k: v for k, v in changes.items() if k not in ("dtype", "size")}
    known = {k: v for k, v in changes.items() if k in ("dtype", "size")}
    stored = vars(tensor) | {"chunks": (shard_files.Chunk(**chunk),)} | known
    return TensorIndex(index.tensors | {name: StoredTensor(**stored)})


def crafted_payload(place, mark):
    file = place / PAYLOAD
    torch.save(Command(mark), file)
    length = file.stat().st_size

    def change(index):
        return TensorIndex(
            {
                name: StoredTensor(
                    tensor.dtype,
                    tensor.size,
                    tuple(shard_files.Chunk(c.offsets, c.sizes, PAYLOAD, 0, length) for c in tensor.chunks),
                )
                for name, tensor in index.tensors.items()
            }
        )

    return change


def test_a_payload_that_is_no_tensor_is_not_run_even_under_a_true_seal(folder, engine, mark):
    resealed(folder / NEWEST, crafted_payload(folder / NEWEST, mark))

    found, passed_over = restored(folder, engine)

    assert found == progress(20)
    assert is_of(engine, 20)
    assert "its tensors cannot be read" in passed_over[0]


def test_a_run_is_not_begun_from_weights_that_were_partly_read(folder, engine, mark):
    resealed(folder / NEWEST, crafted_payload(folder / NEWEST, mark))
    harm(folder / "sharded-00000020" / PAYLOAD, "missing")

    with pytest.raises(RunError, match="its tensors cannot be read") as error:
        restored(folder, engine)
    assert "delete this checkpoint" in str(error.value)


CONTRADICTIONS = {
    "a file elsewhere": ({"file": "../../../etc/passwd"}, "which has no digest"),
    "another checkpoint's file": ({"file": "../sharded-00000020/__0_0.distcp"}, "no digest"),
    "the index itself": ({"file": INDEX_FILE}, "no digest"),
    "no tensor": ({"dtype": "object"}, "has the dtype 'object'"),
    "another dtype": ({"dtype": "int64"}, "is int64"),
    "before the file": ({"at": -1}, "not inside"),
    "outside the tensor": ({"offsets": (9**9, 0)}, "not inside"),
    "too few values": ({"sizes": (1, 1)}, "do not fill it"),
    "other dimensions": ({"sizes": (1,)}, "not inside"),
    "past the end": ({"at": 10**9}, "cannot be read"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_an_index_that_contradicts_itself_gives_way_to_the_one_before(folder, engine, what):
    changes, words = CONTRADICTIONS[what]
    resealed(folder / NEWEST, lambda index: with_first(index, **changes))

    found, passed_over = restored(folder, engine)

    assert found == progress(20)
    assert is_of(engine, 20)
    assert words in passed_over[0]


def test_an_index_without_a_tensor_of_the_model_gives_way_to_the_one_before(folder, engine):
    def without_one(index):
        return TensorIndex(dict(list(index.tensors.items())[1:]))

    resealed(folder / NEWEST, without_one)

    found, passed_over = restored(folder, engine)

    assert found == progress(20)
    assert "has no tensor" in passed_over[0]


def test_torch_is_left_no_way_to_unpickle_what_is_no_tensor():
    item = SimpleNamespace(dest_index=MetadataIndex("weight/embedding"))

    with pytest.raises(Damaged, match="weight/embedding is no tensor"):
        TensorsOnly().load_bytes(item, None)


# Attempts that overlap


class Followed:
    """The guard of an attempt that another one follows after some calls."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        if self.left == 0:
            raise LeaseTaken("taken over", where="lease", fix="nothing is lost")
        self.left -= 1


def names(folder):
    return sorted(place.name for place in folder.iterdir())


def test_an_attempt_that_was_followed_leaves_nothing(tmp_path, engine):
    late = Saver(tmp_path, RUN, engine, attempt=1, guard=Followed(0))
    fill(engine, 60)
    late.begin(progress(60))
    save(Saver(tmp_path, RUN, engine, attempt=2), 50)
    (tmp_path / ".sharded-00000060-000002").mkdir()

    with pytest.raises(LeaseTaken):
        late.wait()
    Saver(tmp_path, RUN, engine, attempt=1)

    assert names(tmp_path) == [".sharded-00000060-000002", "sharded-00000050-000002"]


def test_what_another_attempt_swept_away_is_no_failed_write(tmp_path, engine, monkeypatch):
    late = Saver(tmp_path, RUN, engine, attempt=1, guard=Followed(0))
    fill(engine, 60)

    def gone(*_):
        raise FileNotFoundError(2, "No such file or directory", "meta.json")

    monkeypatch.setattr(type(sharded.META), "write", gone)
    late.begin(progress(60))

    with pytest.raises(LeaseTaken):
        late.wait()


def test_a_late_checkpoint_of_an_earlier_attempt_removes_none_and_is_not_resumed_from(tmp_path, engine):
    late = Saver(tmp_path, RUN, engine, attempt=1, guard=Followed(1))  # suspended after that call
    for step in (20, 30):
        save(Saver(tmp_path, RUN, engine, attempt=2), step)

    save(late, 60)

    assert names(tmp_path) == [
        f"sharded-{s}" for s in ("00000020-000002", "00000030-000002", "00000060-000001")
    ]
    fill(engine, 99)
    found, _ = Saver(tmp_path, RUN, engine, attempt=3).restore()
    assert found == progress(30)
    assert is_of(engine, 30)
    save(Saver(tmp_path, RUN, engine, attempt=3), 40)
    assert names(tmp_path) == ["sharded-00000030-000002", "sharded-00000040-000003"]


def test_an_attempt_resumes_from_one_before_it_and_from_one_without_a_number(folder, engine):
    save(Saver(folder, RUN, engine, attempt=1), 50)
    assert names(folder) == [NEWEST, "sharded-00000050-000001"]

    harm(folder / "sharded-00000050-000001" / PAYLOAD, "missing")

    assert restored(folder, engine)[0] == progress(40)
