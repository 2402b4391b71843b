"""Token files of other programs: taken as they are, or refused by what is wrong with them."""

import numpy as np
import pytest
from pydantic import ValidationError
from token_writing import write_megatron

from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.hashing import sha256
from scalelab.data.sources.tokens import TokenShards
from scalelab.errors import DataError

DOCUMENTS = [np.append(np.arange(i, i + 20) % 49, 49) for i in range(60)]
ROW = np.concatenate(DOCUMENTS)


def prepared(path, **settings):
    source = {"kind": "tokens", "paths": [str(path)], "vocab": 50} | settings
    return prepare(DataConfig(source=source, validation=0.25))


def documents(corpus, split):
    tokens = corpus.tokens(split)
    return [part.tolist() for part in np.split(np.concatenate(tokens.shards), tokens.ends[:-1].astype(int))]


def refusal(path, **settings):
    with pytest.raises(DataError) as refused:
        prepared(path, **settings)
    assert refused.value.where
    assert refused.value.fix
    return f"{refused.value.problem}; {refused.value.fix}"


def write(tmp_path, kind):
    """The documents in a format, and the settings that it needs."""
    if kind in ("uint16", "uint32"):
        path = tmp_path / f"{kind}.bin"
        ROW.astype(f"<u{2 if kind == 'uint16' else 4}").tofile(path)
        return path, {"dtype": kind, "end": 49}
    if kind == "npy":
        np.save(tmp_path / "rows.npy", ROW.astype(">u4"))
        return tmp_path / "rows.npy", {"end": 49}
    halves = [[row[:7], row[7:]] for row in DOCUMENTS]
    return write_megatron(tmp_path / "pair", halves, "<i4" if kind == "megatron i4" else "<u2"), {}


@pytest.mark.parametrize("kind", ["uint16", "uint32", "npy", "megatron", "megatron i4"])
def test_every_format_gives_the_same_documents(kind, tmp_path):
    path, settings = write(tmp_path, kind)

    corpus = prepared(path, **settings)

    both = documents(corpus, "train") + documents(corpus, "validation")
    assert sorted(both) == sorted(row.tolist() for row in DOCUMENTS)
    assert 5 <= len(documents(corpus, "validation")) <= 25
    assert (corpus.vocab_size, corpus.bytes_per_token, corpus.load_tokenizer()) == (50, None, None)


def test_equal_documents_are_on_one_side_whatever_their_format(tmp_path):
    sides = []
    for kind in ("uint16", "megatron"):
        path, settings = write(tmp_path, kind)
        sides.append(documents(prepared(path, **settings), "validation"))

    assert sides[0] == sides[1]


def test_held_out_files_are_held_out(tmp_path):
    np.save(tmp_path / "train.npy", np.arange(40, dtype=np.uint16))
    np.save(tmp_path / "held.npy", np.arange(10, 50, dtype=np.uint16))

    corpus = prepared(tmp_path / "train.npy", validation_paths=[str(tmp_path / "held.npy")])

    assert documents(corpus, "train") == [list(range(40))]
    assert documents(corpus, "validation") == [list(range(10, 50))]


def test_the_bin_of_a_pair_stands_for_the_pair(tmp_path):
    path = write_megatron(tmp_path / "pair", [[row] for row in DOCUMENTS])

    found = {
        prepared(p, tokenizer="gpt2").digest for p in (path, path.with_suffix(".bin"), tmp_path / "pair.*")
    }

    assert len(found) == 1


@pytest.mark.parametrize("ending", [".bin", ".idx", ".IDX"])
def test_both_files_of_a_pair_decide_what_it_is(ending, tmp_path):
    path = write_megatron(tmp_path / "pair", [[row] for row in DOCUMENTS])
    if ending == ".IDX":
        path = path.rename(path.with_suffix(".IDX"))
    named = path.with_suffix(ending)

    def n_documents(group):
        halves = [np.concatenate(DOCUMENTS[i : i + group]) for i in range(0, len(DOCUMENTS), group)]
        written = write_megatron(tmp_path / "pair", [[row] for row in halves])
        if ending == ".IDX":
            written.rename(path)
        return sum(side.n_documents for side in prepared(named).manifest.splits.values())

    assert [n_documents(group) for group in (1, 6)] == [60, 10]

    tokens = path.with_suffix(".bin")
    tokens.write_bytes(tokens.read_bytes()[::-1])
    with pytest.raises(DataError, match="and the vocabulary has 50 tokens"):
        prepared(named)


def test_an_index_that_is_not_read_decides_nothing(tmp_path):
    path, settings = write(tmp_path, "uint16")
    source = TokenShards(paths=(str(path),), vocab=50, **settings)
    before = source.fingerprint(sha256)

    path.with_suffix(".idx").write_bytes(b"of another program")

    assert source.fingerprint(sha256) == before


def test_a_stated_tokenizer_is_its_name(tmp_path):
    path, settings = write(tmp_path, "npy")

    assert prepared(path, tokenizer="gpt2", **settings).tokenizer == "gpt2-50"
    assert prepared(path, **settings).tokenizer.startswith("tokens-50-")


def test_a_token_outside_of_the_vocabulary_is_refused(tmp_path):
    path, settings = write(tmp_path, "npy")

    said = refusal(path, **settings | {"vocab": 49, "end": 48})

    assert "token 20 is 49, and the vocabulary has 49 tokens" in said


@pytest.mark.parametrize(
    ("written", "dtype", "said"),
    [
        ("<u4", "uint16", "every second token is 0, as if the tokens had 4 bytes and not 2"),
        ("<u2", "uint32", "and the vocabulary has 50 tokens"),
        ("<u2", None, "does not say the type of its tokens"),
    ],
)
def test_a_wrong_dtype_is_refused(written, dtype, said, tmp_path):
    ROW.astype(written).tofile(tmp_path / "rows.bin")

    assert said in refusal(tmp_path / "rows.bin", dtype=dtype, end=49)


@pytest.mark.parametrize(("vocab", "most"), [(65_536, 0), (65_537, 1), (100_277, 1), (262_144, 3)])
def test_tokens_of_four_bytes_are_no_tokens_of_two(vocab, most, tmp_path):
    row = np.random.default_rng(0).integers(0, vocab, 20_000)
    row[::50] = 49
    row.astype("<u4").tofile(tmp_path / "rows.bin")

    found = refusal(tmp_path / "rows.bin", dtype="uint16", vocab=vocab, end=49)

    at_most = f"at most {most}" if most else "0"
    assert f"every second token is {at_most}, as if the tokens had 4 bytes and not 2" in found
    assert prepared(tmp_path / "rows.bin", dtype="uint32", vocab=vocab, end=49).vocab_size == vocab


def test_tokens_of_two_bytes_of_a_large_vocabulary_are_taken(tmp_path):
    path, settings = write(tmp_path, "uint16")

    assert prepared(path, **settings | {"vocab": 100_277}).vocab_size == 100_277


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    (tmp_path / "rows.bin").write_bytes(ROW.astype("<u4").tobytes()[:-1])

    assert "no whole number of tokens of 4 bytes" in refusal(tmp_path / "rows.bin", dtype="uint32", end=49)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3), np.uint16), "uint16 of shape (2, 3), not one row of tokens"),
        (np.zeros(3, np.float32), "float32 of shape (3,), not one row of tokens"),
        (np.array([1, -1, 2], np.int32), "token 1 is -1"),
        (np.zeros(0, np.uint16), "holds no tokens"),
    ],
)
def test_another_array_is_refused(array, said, tmp_path):
    np.save(tmp_path / "rows.npy", array)

    assert said in refusal(tmp_path / "rows.npy", end=49)


def test_a_pickle_is_not_loaded(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([{}], object), allow_pickle=True)

    assert "is no whole NumPy array" in refusal(tmp_path / "rows.npy", end=49)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: b"no index" + d[8:], "is no index of Megatron"),
        (lambda d: d[:9] + b"\x02" + d[10:], "has version 2"),
        (lambda d: d[:17] + b"\x07" + d[18:], "dtype code 7"),
        (lambda d: d[:-8], "is cut short"),
        (lambda d: d[:34] + b"\x09\x00\x00\x00" + d[38:], "contradict one another"),
        (lambda d: d[:-8] + b"\x00" * 8, "contradict one another"),
    ],
)
def test_a_damaged_index_is_refused(damage, said, tmp_path):
    path = write_megatron(tmp_path / "pair", [[row] for row in DOCUMENTS])
    path.write_bytes(damage(path.read_bytes()))

    assert said in refusal(path)


def test_tokens_that_an_index_does_not_match_are_refused(tmp_path):
    path = write_megatron(tmp_path / "pair", [[row] for row in DOCUMENTS])
    path.with_suffix(".bin").write_bytes(b"\0" * 10)

    assert "pair.bin has 10 bytes, its index says 2,520" in refusal(path)


def test_a_split_that_nobody_stated_is_refused(tmp_path):
    np.save(tmp_path / "rows.npy", ROW.astype(np.uint16))

    assert "do not say where documents end" in refusal(tmp_path / "rows.npy")
    both = refusal(tmp_path / "rows.npy", validation_paths=[str(tmp_path / "rows.npy")])
    assert "both in paths and in validation_paths" in both


def test_a_file_of_a_pair_does_not_hold_out_the_other(tmp_path):
    path = write_megatron(tmp_path / "pair", [[row] for row in DOCUMENTS])

    for dtype in (None, "uint16"):
        both = refusal(path.with_suffix(".bin"), validation_paths=[str(path)], dtype=dtype)
        assert "pair.bin is both in paths and in validation_paths" in both


def test_other_files_are_refused(tmp_path):
    (tmp_path / "rows.txt").write_text("1 2 3")
    (tmp_path / "rows.bin").write_bytes(b"")

    assert "rows.txt is no token file" in refusal(tmp_path / "rows.txt")
    assert "rows.bin is empty" in refusal(tmp_path / "rows.bin", dtype="uint16")


def test_an_end_outside_of_the_vocabulary_is_refused():
    with pytest.raises(ValidationError, match="end is token 50, and the vocabulary has 50"):
        TokenShards(paths=("a.npy",), vocab=50, end=50)
