"""Checkpoints of one process: what comes back is what was saved, or the one before it."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalelab.errors import RunError
from scalelab.files import machine
from scalelab.sealed import file_digest
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.unsharded import Progress

sys.path.insert(0, str(Path(__file__).parent))
from damage import HARMS, copy, harm, rename_in

RUN = "0123456789ab"
FILES = ("meta.json", unsharded.STATE)


def progress(step):
    return Progress(step, 3.25, 7, [[10, 2560, 5.5]], [[4, 1024, 5.75]], 12.5, 1.5, 8, 2)


def state(seed):
    draw = torch.Generator().manual_seed(seed)
    return {
        "embedding": torch.randn(257, 16, generator=draw),
        "blocks.0.w": torch.randn(48, 16, generator=draw).to(torch.bfloat16),
        "adamw.0.step": torch.tensor(float(seed)),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints, of steps 20 and 40."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (20, 40):
        unsharded.save(folder, RUN, progress(step), state(step))
    return folder


def assert_is(found, step):
    there, tensors, _ = found
    assert there == progress(step)
    assert tensors.keys() == state(step).keys()
    assert all(torch.equal(tensors[name], value) for name, value in state(step).items())


def test_the_newest_checkpoint_comes_back(two):
    assert_is(unsharded.newest(two, RUN), 40)
    assert unsharded.newest(two, RUN)[2] == []


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(two, tmp_path, file, how):
    folder = copy(two, tmp_path / "checkpoints")
    harm(folder / "step-00000040" / file, how)

    found = unsharded.newest(folder, RUN)

    assert_is(found, 20)
    assert len(found[2]) == 1
    assert found[2][0].startswith(f"step-00000040: {file}")


def test_a_renamed_tensor_gives_way_to_the_one_before(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    rename_in(folder / "step-00000040" / unsharded.STATE, "embedding", "embeddinG")

    assert_is(unsharded.newest(folder, RUN), 20)


def test_without_a_checkpoint_that_holds_there_is_none(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    for place in folder.iterdir():
        harm(place / unsharded.STATE, "truncated")

    found, tensors, passed_over = unsharded.newest(folder, RUN)

    assert found is None
    assert tensors == {}
    assert len(passed_over) == 2


def test_a_checkpoint_of_another_run_is_an_error_whatever_its_tensors(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    harm(folder / "step-00000040" / unsharded.STATE, "truncated")

    with pytest.raises(RunError, match=f"belongs to run {RUN}, not to ba9876543210") as error:
        unsharded.newest(folder, "ba9876543210")
    assert "fix:" in str(error.value)


def test_damaged_checkpoints_do_not_push_out_those_that_follow_from_before_them(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    for place in folder.iterdir():
        harm(place / unsharded.STATE, "truncated")

    unsharded.save(folder, RUN, progress(10), state(10))

    assert_is(unsharded.newest(folder, RUN), 10)
    assert [place.name for place in folder.iterdir()] == ["step-00000010"]


def test_what_a_killed_writer_left_is_removed_by_the_next_save(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    left = folder / f".step-00000033.{machine()}.999999999.partial"
    left.mkdir()
    (left / unsharded.STATE).write_bytes(b"half")

    unsharded.save(folder, RUN, progress(60), state(60))

    assert sorted(p.name for p in folder.iterdir()) == ["step-00000040", "step-00000060"]


def test_other_names_are_no_checkpoints(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    copy(two / "step-00000020", folder / "step-00000050.bak")
    (folder / "step-notes").write_text("mine")

    assert_is(unsharded.newest(folder, RUN), 40)


def test_a_checkpoint_from_before_the_seals_is_used(two, tmp_path):
    folder = copy(two, tmp_path / "checkpoints")
    old = {"spec": RUN, **vars(progress(40))}
    (folder / "step-00000040" / "meta.json").write_text(json.dumps(old, indent=1))

    assert_is(unsharded.newest(folder, RUN), 40)


def test_the_file_is_what_safetensors_writes_and_the_digest_is_the_files(tmp_path):
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(64, 33, generator=draw)
    tensors = {
        "view": base[3:9],
        "turned": base.T,
        "half": base.to(torch.bfloat16),
        "count": torch.arange(5),
        "flags": torch.tensor([True, False, True]),
        "one": torch.tensor(math.pi, dtype=torch.float64),
        "none": torch.empty(0, 4),
        'a "name"\n': torch.arange(3, dtype=torch.int32),
    }
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    digest = unsharded.save_weights(ours, tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, theirs)

    assert digest == file_digest(ours)
    assert ours.stat().st_size == theirs.stat().st_size
    read, expected = load_file(ours), load_file(theirs)
    assert read.keys() == expected.keys() == tensors.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
