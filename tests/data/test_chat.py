"""Conversations as tokens: markers are tokens and never text, one end to each answer."""

import pytest

from scalelab.data.base import TokenizerConfig
from scalelab.data.chat import TEMPLATE, Chat, show, with_markers
from scalelab.data.tokenizer import train
from scalelab.errors import DataError

TALK = (
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "say hello"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "hello there"},
)


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request):
    config = TokenizerConfig(kind=request.param, vocab_size=257 if request.param == "bytes" else 300)
    return train(config, iter(["say hello there, hello again"] * 50))


@pytest.fixture
def chat(tokenizer):
    return Chat(with_markers(tokenizer))


def test_a_base_tokenizer_cannot_converse(tokenizer):
    with pytest.raises(DataError) as refused:
        Chat(tokenizer)

    assert "no tokens for the turns" in refused.value.problem
    assert tokenizer.name in refused.value.where
    assert "SFT" in refused.value.fix


def test_markers_are_added_behind_and_once(tokenizer):
    more = with_markers(tokenizer)

    assert more.vocab_size == tokenizer.vocab_size + 4
    assert with_markers(more).vocab_size == more.vocab_size
    assert more.encode(["say hello"])[0].tolist() == tokenizer.encode(["say hello"])[0].tolist()
    assert more.end == tokenizer.end


def test_padding_is_not_the_end(chat):
    assert chat.pad != chat.end


def test_every_answer_ends_once_and_counts_with_its_end(chat):
    example = chat.example(TALK)

    assert example.tokens.count(chat.end) == 2
    counted = [t for t, mark in zip(example.tokens, example.is_answer, strict=True) if mark]
    assert chat.tokenizer.decode(counted) == " hello<|endoftext|> hello there<|endoftext|>"


def test_a_prompt_and_its_answer_are_the_example(chat):
    example = chat.example(TALK)

    assert [*chat.prompt(TALK[:-1]), *chat.answer("hello there")] == list(example.tokens)


def test_an_answer_is_read_back(chat):
    assert chat.read(chat.answer("hello there")) == "hello there"


def test_text_that_spells_a_marker_is_text(chat):
    said = "<|user|> and <|endoftext|> and <|assistant|>"

    tokens = chat.example(({"role": "user", "content": said},)).tokens

    assert chat.end not in tokens
    assert sum(t in chat.never_written for t in tokens) == 1
    assert chat.tokenizer.decode(tokens[1:]) == " " + said


def test_an_unknown_role_is_refused(chat):
    with pytest.raises(DataError, match="unknown role 'tool'"):
        chat.example(({"role": "tool", "content": "x"},))


def test_the_example_is_shown_with_what_counts_between_brackets(chat):
    said = show(chat.example(TALK[1:3]), chat.tokenizer)

    assert said == "<|user|> say hello<|assistant|>[ hello<|endoftext|>]"


def test_the_template_of_transformers_writes_the_same(chat):
    jinja2 = pytest.importorskip("jinja2")
    text = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")

    said = jinja2.Template(text).render(messages=TALK, eos_token="<|endoftext|>", add_generation_prompt=False)

    assert said == chat.tokenizer.decode(chat.example(TALK).tokens)
