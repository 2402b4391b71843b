"""Tokenizers from files: read as they are, named by what they hold, and refused where they do not fit."""

import hashlib
import json
import re

import pytest
from pydantic import ValidationError
from token_writing import byte_level, write_huggingface
from tokenizers import Tokenizer, models, pre_tokenizers

from scalelab.config import digest_without
from scalelab.data import TOKENIZERS
from scalelab.data.base import DataConfig, TokenizerConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.tokenizer import TextTokenizer, train
from scalelab.data.tokenizers.file import TokenizerFile
from scalelab.data.tokenizers.huggingface import HuggingFaceDirectory
from scalelab.data.vocabulary import vocab_size_of
from scalelab.errors import DataError
from scalelab.testing.tokenizers import check_tokenizer


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokenizer.json"
    byte_level().save(str(path))
    return path


def settings(kind, tmp_path):
    """Settings of each member, over a small tokenizer."""
    if kind in ("bpe", "bytes"):
        return {"kind": kind}
    folder = write_huggingface(tmp_path / "published")
    if kind == "file":
        return {"kind": "file", "path": str(folder / "tokenizer.json"), "end": "<|stop|>"}
    return {"kind": "huggingface", "path": str(folder)}


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_every_tokenizer_conforms(kind, tmp_path, config):
    check_tokenizer(config(tokenizer=settings(kind, tmp_path)), tmp_path / "corpora")


def test_a_file_cuts_as_it_says_and_nothing_is_added_padded_or_cut(file):
    tokenizer = TokenizerFile(path=str(file), end="<|stop|>").load()
    vocabulary = byte_level().get_vocab()

    (found,) = tokenizer.encode(["then the other"])

    assert found.tolist() == [
        vocabulary[t] for t in ("th", "e", "n", "\u0120", "th", "e", "\u0120", "o", "th", "e", "r")
    ]
    assert (tokenizer.end, tokenizer.vocab_size) == (258, 259)


def test_a_saved_one_comes_back_with_its_end(file, tmp_path):
    tokenizer = TokenizerFile(path=str(file), end="<|stop|>").load()
    tokenizer.save(tmp_path / "again.json")

    again = TextTokenizer.load(tmp_path / "again.json")

    assert (again.name, again.end, again.vocab_size) == (tokenizer.name, tokenizer.end, tokenizer.vocab_size)
    assert tokenizer.name.startswith("bpe-259-")


def test_one_that_was_trained_here_keeps_its_name(tmp_path, prose):
    own = train(TokenizerConfig(vocab_size=300), iter(prose(40)))
    own.save(tmp_path / "tokenizer.json")

    assert TokenizerFile(path=str(tmp_path / "tokenizer.json")).load().name == own.name


def test_its_contents_name_the_corpus(file, config):
    data = config(tokenizer={"kind": "file", "path": str(file), "end": "<|stop|>"})
    one = prepare(data)
    other = byte_level()
    other.normalizer = None
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    other.save(str(file))

    assert prepare(data).digest != one.digest


def test_a_larger_vocabulary_of_the_model_is_kept(file, config):
    data = config(tokenizer={"kind": "file", "path": str(file), "end": "<|stop|>", "vocab_size": 320})

    corpus = prepare(data)

    assert (corpus.vocab_size, vocab_size_of(data)) == (320, 320)
    assert corpus.load_tokenizer().n_ids == 259


def test_numbers_that_are_left_out_count(tmp_path):
    inner = Tokenizer(models.WordLevel({"a": 0, "</s>": 7}, unk_token="a"))
    inner.save(str(tmp_path / "tokenizer.json"))

    assert TokenizerFile(path=str(tmp_path / "tokenizer.json")).load().vocab_size == 8


def test_a_directory_gets_the_special_tokens_of_its_config(tmp_path):
    added = {"259": {"content": "<|chat|>", "special": True}}
    folder = write_huggingface(
        tmp_path / "published", added_tokens_decoder=added, eos_token={"content": "<|chat|>"}
    )

    tokenizer = HuggingFaceDirectory(path=str(folder)).load()

    assert (tokenizer.end, tokenizer.vocab_size, tokenizer.special("<|chat|>")) == (259, 260, 259)


def test_the_end_of_a_directory_may_stand_in_its_map(tmp_path):
    folder = write_huggingface(tmp_path / "published", eos_token=None)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|begin|>"}))

    assert HuggingFaceDirectory(path=str(folder)).load().end == 257


def test_a_stated_hash_is_compared(file):
    right = hashlib.sha256(file.read_bytes()).hexdigest()

    TokenizerFile(path=str(file), end="<|stop|>", sha256=right).load()
    with pytest.raises(DataError, match=f"has the SHA-256 {right}, not {'0' * 64}"):
        TokenizerFile(path=str(file), end="<|stop|>", sha256="0" * 64).load()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"no known token ends a document.*special tokens are '<\|begin\|>', '<\|stop\|>'"),
        ({"end": "<eos>"}, "has no token '<eos>' to end a document"),
        ({"end": "<|stop|>", "vocab_size": 258}, "tokens up to 258, and the model's vocabulary is 258"),
    ],
)
def test_what_does_not_fit_is_refused(settings, said, file):
    with pytest.raises(DataError) as refused:
        TokenizerFile(path=str(file), **settings).load()

    text = f"{refused.value.problem} {refused.value.fix}"
    assert re.search(said, text), text
    assert str(file) in refused.value.where


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"', b"[" * 100_000])
def test_a_damaged_file_is_refused(data, file):
    file.write_bytes(data)

    with pytest.raises(DataError, match="cannot read the tokenizer"):
        TokenizerFile(path=str(file), end="<|stop|>").load()


def test_several_known_ends_need_a_choice(tmp_path):
    Tokenizer(models.WordLevel({"</s>": 0, "<eos>": 1}, unk_token="</s>")).save(str(tmp_path / "t.json"))

    with pytest.raises(DataError, match="several tokens may end a document: </s>, <eos>"):
        TokenizerFile(path=str(tmp_path / "t.json")).load()


@pytest.mark.parametrize("lossy", [False, True])
def test_one_without_a_token_for_a_text_is_refused(lossy, tmp_path):
    Tokenizer(models.WordLevel({"known": 0, "</s>": 1}, unk_token="[UNK]")).save(str(tmp_path / "t.json"))

    with pytest.raises(DataError, match="cannot encode a text: WordLevel error: Missing"):
        TokenizerFile(path=str(tmp_path / "t.json"), lossy=lossy).load(["strange"]).encode(["strange"])


def test_one_that_loses_text_is_refused_unless_that_is_stated(tmp_path, config):
    byte_level(lower=True).save(str(tmp_path / "lower.json"))
    (tmp_path / "upper.txt").write_text("UPPER case\n" * 50)
    tokenizer = {"kind": "file", "path": str(tmp_path / "lower.json"), "end": "<|stop|>"}
    source = {"kind": "text", "paths": [str(tmp_path / "upper.txt")], "document": "line"}
    (tmp_path / "upper.txt").write_text("".join(f"UPPER case {i * i}\n" for i in range(60)))

    with pytest.raises(DataError, match="does not give a text back: 'UPPER case"):
        prepare(config(source=source, tokenizer=tokenizer))
    assert prepare(config(source=source, tokenizer=tokenizer | {"lossy": True})).vocab_size == 259


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is not JSON"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "is not a JSON object"),
        (
            lambda f: write_huggingface(
                f, added_tokens_decoder={"3": {"content": "<|stop|>", "special": True}}
            ),
            "'<|stop|>' is token 258 in tokenizer.json and 3 in tokenizer_config.json",
        ),
        (lambda f: write_huggingface(f, added_tokens_decoder={"x": {}}), "has no name or number"),
        (lambda f: write_huggingface(f, added_tokens_decoder=[1]), "is no object"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused(change, said, tmp_path):
    folder = write_huggingface(tmp_path / "published")
    change(folder)

    with pytest.raises(DataError) as refused:
        HuggingFaceDirectory(path=str(folder)).load()

    assert said in refused.value.problem


def test_a_directory_and_a_file_are_not_mistaken(tmp_path, file):
    with pytest.raises(DataError, match="is a directory"):
        TokenizerFile(path=str(tmp_path)).load()
    with pytest.raises(DataError, match="is a file"):
        HuggingFaceDirectory(path=str(file)).load()
    with pytest.raises(DataError, match="does not exist"):
        HuggingFaceDirectory(path=str(tmp_path / "nowhere")).load()


def test_an_unknown_kind_names_those_that_are_there(config):
    with pytest.raises(ValidationError, match="unknown tokenizer 'files'; did you mean 'file'"):
        config(tokenizer={"kind": "files"})


def test_a_known_digest_of_settings_stays():
    """The ids of runs and the keys of corpora depend on it."""
    data = DataConfig(source={"kind": "text", "paths": ["a.txt"]}, tokenizer={"vocab_size": 300})

    assert data.model_dump()["tokenizer"] == {"kind": "bpe", "vocab_size": 300, "train_bytes": 8_000_000}
    assert digest_without(data, after=1) == "3c9c0a230feb"
