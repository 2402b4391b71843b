"""A prepared corpus is what the source says, found again at once, and refused when damaged."""

import os
import shutil

import numpy as np
import pytest

from scalelab.data import hashing
from scalelab.data.base import DataConfig, SkippedDocuments
from scalelab.data.corpus import encode, shards
from scalelab.data.corpus.shards import cache_dir, find, open_corpus, prepare
from scalelab.data.corpus.token_files import TokenFile, TokenWriter, dtype_for
from scalelab.errors import DataError, RunError


def texts_of(corpus, split):
    """The documents of one side, decoded."""
    tokens, tokenizer = corpus.tokens(split), corpus.load_tokenizer()
    documents = np.split(np.concatenate(tokens.shards), tokens.ends[:-1].astype(int))
    assert all(document[-1] == tokenizer.end for document in documents)
    return [tokenizer.decode(document[:-1]) for document in documents]


@pytest.mark.parametrize("tokenizer", [{"vocab_size": 300}, {"kind": "bytes"}])
def test_every_document_is_in_the_corpus_once(config, tokenizer):
    config = config(tokenizer=tokenizer)
    corpus = prepare(config)

    found = texts_of(corpus, "train") + texts_of(corpus, "validation")

    assert sorted(found) == sorted(d.text for d in config.source.documents(SkippedDocuments()))


def test_bytes_per_token_is_that_of_the_validation_text(config):
    corpus = prepare(config())
    n_bytes = sum(len(text.encode()) for text in texts_of(corpus, "validation"))

    assert corpus.bytes_per_token == pytest.approx(n_bytes / corpus.n_validation)
    assert corpus.bpb(np.log(2)) == pytest.approx(1 / corpus.bytes_per_token)


def test_with_bytes_only_the_end_tokens_are_more(config):
    corpus = prepare(config(tokenizer={"kind": "bytes"}))
    ends = corpus.manifest.splits["validation"].n_documents

    assert corpus.vocab_size == 257
    assert corpus.bytes_per_token == pytest.approx(1 - ends / corpus.n_validation)


def test_the_tokenizer_never_sees_validation_text(config, monkeypatch):
    seen = []

    def spy(settings, texts, train=encode.train):
        seen.extend(texts)
        return train(settings, iter(seen))

    monkeypatch.setattr(encode, "train", spy)
    corpus = prepare(config())

    assert sorted(seen) == sorted(texts_of(corpus, "train"))


def test_a_vocabulary_that_the_text_cannot_fill_is_told(config):
    corpus = prepare(config(tokenizer={"vocab_size": 30_000}))

    assert corpus.manifest.vocab_size_planned == 30_000
    assert 257 < corpus.vocab_size < 30_000
    assert corpus.tokenizer.startswith(f"bpe-{corpus.vocab_size}-")


def test_the_second_time_nothing_is_read_but_the_source_is_looked_at(config, monkeypatch):
    corpus = prepare(config())
    monkeypatch.setattr(encode, "read", None)
    monkeypatch.setattr(shards, "read", None)

    assert prepare(config()) == corpus
    assert find(config()) == corpus


def test_epochs_do_not_make_another_corpus(config, monkeypatch):
    corpus = prepare(config())
    monkeypatch.setattr(shards, "read", None)

    assert prepare(config(epochs=4.0)) == corpus


def test_changed_settings_make_another_corpus(config):
    digests = {
        prepare(config(**change)).digest
        for change in ({}, {"validation": 0.3}, {"tokenizer": {"vocab_size": 310}})
    }

    assert len(digests) == 3


def test_a_changed_file_makes_another_corpus(config, corpus_files, monkeypatch):
    monkeypatch.setattr(hashing, "_RACY_NS", -(10**18))  # as if the files were old
    corpus = prepare(config())
    file = corpus_files / "003.txt"
    stat = file.stat()
    file.write_text(file.read_text().swapcase())  # the same size ...
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # ... and the same time

    assert prepare(config()).digest != corpus.digest


def test_equal_texts_elsewhere_have_an_equal_digest(config, corpus_files, tmp_path):
    corpus = prepare(config())
    shutil.copytree(corpus_files, tmp_path / "copies")
    source = {"kind": "text", "paths": [f"{tmp_path}/copies/*.txt"]}

    assert prepare(config(source=source)).digest == corpus.digest


def test_before_it_is_prepared_it_is_not_found_and_nothing_is_written(config, own_cache):
    assert find(config()) is None
    assert not own_cache.exists()


def test_it_is_opened_by_digest_without_its_source(config, corpus_files):
    corpus = prepare(config())
    shutil.rmtree(corpus_files)

    opened = open_corpus(corpus.digest)

    assert opened == corpus
    assert len(opened.tokens("train")) == corpus.n_train


def test_what_it_was_made_from_is_written_down(config, corpus_files):
    (corpus_files / "twin.txt").write_text((corpus_files / "005.txt").read_text() + "more")
    (corpus_files / "void.txt").write_text("")

    manifest = prepare(config()).manifest

    assert manifest.skipped == {"without text": {"count": 1, "examples": ["void.txt"]}}
    assert manifest.largest_cluster["documents"] == 2
    assert manifest.largest_cluster["examples"] == ["005.txt", "twin.txt"]
    assert manifest.n_clusters == 40
    assert DataConfig(**manifest.data) == config()


def test_a_corpus_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="there is no prepared corpus 0123456789ab") as refused:
        open_corpus("0123456789ab")

    assert "fix:   prepare it" in str(refused.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: cut(c / "train-00000.bin"), r"train-00000\.bin has \d+ bytes, not \d+"),
        (lambda c: (c / "validation-00000.bin").unlink(), r"validation-00000\.bin is missing"),
        (lambda c: (c / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda c: cut(c / "manifest.json"), "cannot be read as a corpus manifest: it is not JSON"),
        (lambda c: (c / "manifest.json").write_text("[1]"), r"it holds \[1\], not a record"),
        (lambda c: (c / "manifest.json").write_text('{"format": 1}'), "it has no bytes_per_token"),
        (lambda c: (c / "manifest.json").unlink(), "manifest.json is missing"),
    ],
)
def test_a_damaged_corpus_is_refused_and_made_anew_once_deleted(config, damage, said):
    corpus = prepare(config())
    damage(corpus.path)

    for attempt in (lambda: open_corpus(corpus.digest), lambda: prepare(config())):
        with pytest.raises(DataError, match=said) as refused:
            attempt()
        assert f"where: {corpus.path}\n  fix:   delete this directory" in str(refused.value)

    shutil.rmtree(corpus.path)
    assert prepare(config()).digest == corpus.digest


def test_a_source_without_text_is_refused(config, tmp_path):
    (tmp_path / "void.txt").write_text("\n")
    source = {"kind": "text", "paths": [f"{tmp_path}/void.txt"]}

    with pytest.raises(DataError, match=r"the source holds no text \(1 without text\)"):
        prepare(config(source=source))


def test_one_document_cannot_be_divided(config, tmp_path):
    (tmp_path / "one.txt").write_text("one long text\n\n" * 50)
    source = {"kind": "text", "paths": [f"{tmp_path}/one.txt"]}

    with pytest.raises(DataError, match="leave the validation side empty"):
        prepare(config(source=source))


def test_a_language_of_one_document_cannot_be_divided():
    source = {"kind": "synthetic", "documents": 1}

    with pytest.raises(DataError, match="too little to divide"):
        prepare(DataConfig(source=source))


@pytest.mark.parametrize("change", ["fingerprint", "longer", "shorter", "other"])
def test_a_source_that_changes_while_it_is_read_is_refused(
    config, corpus_files, monkeypatch, change, own_cache
):
    def read(settings, first=shards.read):
        reading = first(settings)
        if change == "longer":
            (corpus_files / "zzz.txt").write_text("one more")
        elif change == "shorter":
            (corpus_files / "039.txt").unlink()
        elif change == "other":
            (corpus_files / "020.txt").write_text("something else")
        else:  # not a document, yet not what was fingerprinted
            (corpus_files / "zzz.txt").write_text("")
        return reading

    monkeypatch.setattr(shards, "read", read)

    with pytest.raises(DataError, match="the source changed while it was being"):
        prepare(config())
    assert not list(own_cache.glob("keys/*"))


def test_a_source_that_grows_shorter_is_noticed_by_the_second_pass(config, corpus_files):
    reading = encode.read(config())
    (corpus_files / "039.txt").unlink()

    with pytest.raises(DataError, match="the source changed") as refused:
        list(encode.encoded(config(), reading))
    assert "40 documents became 39" in str(refused.value)


def test_a_cache_that_cannot_be_written_is_told(config, tmp_path):
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(RunError, match="a file stands where a directory is needed"):
        prepare(config(), tmp_path / "file")


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SCALELAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "scalelab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "scalelab"


def test_hashes_of_unchanged_files_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_RACY_NS", -(10**18))  # as if the file were old
    path = tmp_path / "a"
    path.write_text("x")
    first = hashing.FileHashes(tmp_path / "memo.json")
    digest = first(path)
    first.save()
    monkeypatch.setattr(hashing, "sha256", None)

    assert hashing.FileHashes(tmp_path / "memo.json")(path) == digest


def test_hashes_of_files_just_written_are_not_remembered(tmp_path):
    (tmp_path / "a").write_text("x")
    hashes = hashing.FileHashes(tmp_path / "memo.json")
    hashes(tmp_path / "a")
    hashes.save()

    assert not (tmp_path / "memo.json").exists()


def test_a_damaged_memo_is_only_slow(tmp_path):
    (tmp_path / "memo.json").write_text("{")
    (tmp_path / "a").write_text("x")

    assert hashing.FileHashes(tmp_path / "memo.json")(tmp_path / "a").startswith("2d711642b726")


@pytest.mark.parametrize("shard_tokens", [7, 100, 10**6])
def test_shards_are_bounded_and_read_as_one_row(tmp_path, shard_tokens):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 70_000, n) for n in (3, 50, 1, 200, 14)]
    with TokenWriter(tmp_path, "train", 70_000, shard_tokens) as writer:
        for row in rows:
            writer.add(shards_document(row))

    paths = [tmp_path / name for name in writer.shards]
    tokens = TokenFile.open(paths, dtype_for(70_000), tmp_path / "train.ends")

    assert max(path.stat().st_size for path in paths) <= 4 * shard_tokens
    assert np.array_equal(np.concatenate(tokens.shards), np.concatenate(rows))
    assert tokens.ends.tolist() == [3, 53, 54, 254, 268]
    assert writer.files[writer.shards[0]].sha256 == hashing.sha256(paths[0])
    starts = np.array([0, 5, 97, 250, 12])
    expected = [np.concatenate(rows)[s : s + 18] for s in starts]
    assert np.array_equal(tokens.windows(starts, 18), expected)


def shards_document(row):
    from scalelab.data.base import EncodedDocument

    return EncodedDocument("train", row, 0)


def test_tokens_take_two_bytes_while_they_can():
    assert dtype_for(65_535) == "<u2"
    assert dtype_for(65_536) == "<u4"
