"""Layouts of records: each is read as what it is, nothing of it is dropped, and a mixture is refused."""

import json

import pytest

from scalelab.errors import DataError
from scalelab.evals import LAYOUTS
from scalelab.evals.conversations.file_conversations import FileConversations, HubConversations
from scalelab.evals.conversations.layouts.base import ConversationRecord, PreferenceRecord, RatedRecord
from scalelab.evals.conversations.reading import read_records
from scalelab.testing.layouts import check_layout

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ok"},
)
CALL = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "Köln"}'}}
CALLED = '<tool_call>\n{"name": "now", "arguments": {"zone": "Köln"}}\n</tool_call>'
RESPONSE = "<tool_response>\n12:00\n</tool_response>"


def read(*records, wanted=(ConversationRecord,), n=None):
    return read_records([(f"a.jsonl:{i}", r) for i, r in enumerate(records, 1)], wanted, n)


def turns(record):
    """Role and text of each turn of a conversation."""
    (found,) = read(record)
    return [(m["role"], m["content"]) for m in found.messages]


def refusal(*records, wanted=(ConversationRecord,)):
    with pytest.raises(DataError) as refused:
        read(*records, wanted=wanted)
    assert refused.value.fix
    return str(refused.value)


def talk(*messages):
    return {"messages": list(messages)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_keeps_its_contract(name):
    check_layout(name)


def test_alpaca_puts_the_input_below_the_instruction():
    assert turns({"instruction": "Reverse.", "input": "a b", "output": "b a", "system": "be short"}) == [
        ("system", "be short"),
        ("user", "Reverse.\n\na b"),
        ("assistant", "b a"),
    ]
    assert turns({"instruction": "1+1?", "input": "", "output": "2"})[0] == ("user", "1+1?")


def test_sharegpt_names_are_roles_and_calls_are_kept():
    rows = [
        {"from": "system", "value": "be short"},
        {"from": "human", "value": "the time?"},
        {"from": "function_call", "value": '{"name": "now", "arguments": {"zone": "Köln"}}'},
        {"from": "observation", "value": "12:00"},
        {"from": "gpt", "value": "noon"},
    ]

    assert turns({"conversations": rows}) == [
        ("system", "be short"),
        ("user", "the time?"),
        ("assistant", CALLED),
        ("user", RESPONSE),
        ("assistant", "noon"),
    ]
    assert turns({"conversations": [USER, ANSWER]}) == [("user", "hi"), ("assistant", "ok")]


def test_developer_tools_and_calls_are_read():
    found = turns(
        talk(
            {"role": "developer", "content": "be short"},
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "12:00"},
            {"role": "assistant", "content": "let me see", "tool_calls": [CALL], "refusal": None},
            {"role": "tool", "content": ""},
            {"role": "assistant", "content": "noon", "tool_calls": []},
        )
    )

    assert found == [
        ("system", "be short"),
        ("user", "hi"),
        ("assistant", f"{CALLED}\n{CALLED}"),
        ("user", RESPONSE),
        ("assistant", f"let me see\n{CALLED}"),
        ("user", "<tool_response>\n\n</tool_response>"),
        ("assistant", "noon"),
    ]


def test_a_final_call_is_an_answer():
    assert turns(talk(USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}))[-1] == (
        "assistant",
        CALLED,
    )


def test_content_in_parts_is_its_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two", "image_url": None}]

    assert turns(talk({"role": "user", "content": parts}, ANSWER))[0] == ("user", "one\ntwo")


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "'image_url', not text",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "part 1 of the content is 'null', not text"),
        ({"role": "user", "content": None}, "the message has no content: it is null"),
        ({"role": "user"}, "the message has no content"),
        ({"role": "user", "content": " "}, "the text of the user is empty"),
        ({"role": "user", "content": []}, "the text of the user is empty"),
        ({"role": "user", "content": 7}, "the content is int, not text"),
        ({"role": "user", "content": "\ud800"}, "half of a surrogate pair"),
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ({"role": ["user"], "content": "x"}, "unknown role ['user']"),
        ({"content": "x"}, "the message has no role"),
        ("hi", "not a message: 'hi'"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "a message of the user has tool calls"),
        (
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
            "'reasoning_content', which cannot",
        ),
        ({"role": "user", "content": "x", "images": ["a.png"]}, "'images', which cannot be trained on"),
        ({"role": "assistant", "content": "x", "weight": 0}, "weight 0"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "no content: it is null"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "no JSON"}]}, "not a tool call"),
        ({"role": "assistant", "tool_calls": ["f"]}, "not a tool call: 'f'"),
    ],
)
def test_what_would_be_lost_is_refused_with_record_and_message(message, what):
    said = refusal(talk(USER, ANSWER), talk(USER, ANSWER, message, USER, ANSWER))

    assert what in said
    assert "where: a.jsonl:2, message 3" in said


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (talk(USER), "does not end with an answer"),
        (talk(USER, ANSWER, USER), "does not end with an answer"),
        (talk(ANSWER), "an answer but no prompt: it follows nothing"),
        (talk(SYSTEM, ANSWER), "it follows a message of the system"),
        ({"messages": []}, "no messages"),
        ({"messages": "hi"}, "no messages"),
        ({**talk(USER, ANSWER), "tools": [{"name": "f"}]}, "the record has 'tools'"),
        ({**talk(USER, ANSWER), "images": ["x.png"]}, "the record has 'images'"),
        ({**talk(SYSTEM, USER, ANSWER), "system": "x"}, "already begin with a system turn"),
        ({**talk(USER, ANSWER), "prompt": "x", "completion": "y"}, "two layouts: messages (messages) and"),
        ({"text": "x"}, "in no known layout of conversations: it has text"),
        ({}, "it has no fields"),
        ({"chosen": "x", "rejected": "y", "prompt": "z"}, "the records are preferences (layout preference)"),
        ({"instruction": "x", "output": ""}, "the answer of the assistant is empty"),
        ({"instruction": "x", "output": "y", "history": ["a"]}, "not a list of pairs"),
        ({"instruction": "x", "output": "y", "history": 7}, "history is 7, not a list of pairs"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "the turn is from 'narrator'"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "the turn is from ['human']"),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, "not a tool call: 'f()'"),
    ],
)
def test_a_record_that_is_no_conversation_is_refused(record, what):
    said = refusal(record)

    assert what in said
    assert "where: a.jsonl:1" in said


def test_a_tool_s_absent_definitions_do_no_harm():
    for empty in ([], None, "", "[]"):
        assert turns({**talk(USER, ANSWER), "tools": empty, "system": ""})[0] == ("user", "hi")


def test_a_mixture_of_layouts_is_refused_with_its_line():
    alpaca = {"instruction": "x", "output": "y"}

    said = refusal(talk(USER, ANSWER), alpaca, alpaca)

    assert "the record has the layout alpaca, but the first one of the file has messages" in said
    assert "(and 1 more record that cannot be read)" in said
    assert "where: a.jsonl:2; a.jsonl:3" in said


def test_files_of_different_layouts_may_stand_side_by_side(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([talk(USER, ANSWER)] * 2))
    (tmp_path / "b.csv").write_text("instruction,input,output\nsay,a,b\n")
    talks = FileConversations(train=(str(tmp_path / "*"),))

    assert [t[-1]["content"] for t in talks.training(None, 0)] == ["ok", "ok", "b"]
    assert len(talks.training(2, 0)) == 2
    assert len(talks.prompts(3, 0, "any")) == 3


def test_a_file_of_both_sides_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(talk(USER, ANSWER)))
    both = FileConversations(train=(str(tmp_path / "*.jsonl"),), test=(str(tmp_path / "b.jsonl"),))
    apart = FileConversations(train=(str(tmp_path / "a.jsonl"),), test=(str(tmp_path / "b.jsonl"),))

    assert apart.fingerprint()
    for use in (both.fingerprint, lambda: both.training(1, 0), lambda: both.tests(1)):
        with pytest.raises(DataError, match="1 file is in both train and test"):
            use()


def test_a_split_of_the_hub_that_is_both_sides_is_refused():
    with pytest.raises(ValueError, match="nothing would be held out"):
        HubConversations(name="me/set", test="train")


HH = {
    "chosen": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: 1+1?\n\nAssistant: 2\n\nas I said",
    "rejected": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: 1+1?\n\nAssistant: 3",
}
PAIR = (PreferenceRecord, RatedRecord)


def test_hh_is_a_prompt_and_two_answers():
    (found,) = read(HH, wanted=PAIR)

    assert [(m["role"], m["content"]) for m in found.prompt] == [
        ("user", "hi"),
        ("assistant", "yes?"),
        ("user", "1+1?"),
    ]
    assert (found.chosen, found.rejected) == ("2\n\nas I said", "3")


def test_the_prompt_is_what_two_conversations_share():
    other = {"role": "assistant", "content": "no"}

    (found,) = read({"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, other]}, wanted=PAIR)

    assert found == PreferenceRecord((SYSTEM, USER), "ok", "no")


def test_answers_may_repeat_the_prompt():
    record = {"prompt": "hi", "chosen": [USER, ANSWER], "rejected": "no", "messages": [USER, ANSWER]}

    assert read(record, wanted=PAIR) == [PreferenceRecord((USER,), "ok", "no")]
    assert turns(record) == [("user", "hi"), ("assistant", "ok")]


@pytest.mark.parametrize(
    ("label", "is_good"), [(True, True), (0, False), ("True", True), ("false", False), (1.0, True)]
)
def test_a_rated_answer_has_its_label(label, is_good):
    assert read({"prompt": "hi", "completion": "ok", "label": label}, wanted=PAIR) == [
        RatedRecord((USER,), "ok", is_good)
    ]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"chosen": HH["chosen"], "rejected": "\n\nHuman: hey\n\nAssistant: 3"}, "differ from message 1 on"),
        (
            {"chosen": HH["chosen"], "rejected": "\n\nHuman: hi\n\nAssistant:"},
            "the answer of the assistant is empty",
        ),
        ({"chosen": "2", "rejected": "3"}, "no turns of a dialogue, and there is no 'prompt'"),
        ({"chosen": "well\n\nHuman: a\n\nAssistant: b", "rejected": "x"}, "no turns of a dialogue"),
        ({"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, ANSWER]}, "differ from message 3 on"),
        ({"chosen": [USER, ANSWER], "rejected": [USER]}, "does not end with an answer"),
        ({"chosen": [ANSWER], "rejected": [ANSWER]}, "no prompt"),
        (
            {"prompt": "x", "chosen": [USER, ANSWER], "rejected": "b"},
            "'chosen' is not one answer to the prompt",
        ),
        ({"prompt": "x", "chosen": "a", "rejected": ""}, "the answer of the assistant is empty"),
        ({"prompt": [ANSWER], "chosen": "a", "rejected": "b"}, "a message of the assistant"),
        ({"prompt": "x", "completion": "a", "label": "maybe"}, "the label is 'maybe', not true or false"),
        ({"prompt": "x", "completion": "a"}, "the records are conversations (layout prompt_completion)"),
    ],
)
def test_a_record_that_is_no_preference_is_refused(record, what):
    said = refusal(record, wanted=PAIR)

    assert what in said
    assert "where: a.jsonl:1" in said


def test_exported_models_write_tools_as_they_were_trained(tmp_path):
    """The template of transformers on raw messages against our tokens of what was read."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    from scalelab.data.base import TokenizerConfig
    from scalelab.data.chat import TEMPLATE, Chat, with_markers
    from scalelab.data.tokenizer import train

    raw = [
        {"role": "developer", "content": "be <short> & 'quick'"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL["function"]]},
        {"role": "tool", "content": "12:00"},
        {
            "role": "assistant",
            "content": "wait",
            "tool_calls": [{"name": "f", "arguments": {"a": [1, "ü<"]}}],
        },
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": "y"},
        ANSWER,
    ]
    chat = Chat(with_markers(train(TokenizerConfig(kind="bytes"), iter(["x"]))))

    template = utils._compile_jinja_template(TEMPLATE)
    said = template.render(messages=raw, eos_token="<|endoftext|>", add_generation_prompt=False)

    (found,) = read(talk(*raw))
    assert said == chat.tokenizer.decode(chat.example(found.messages).tokens)
    with pytest.raises(Exception, match="unknown role narrator"):
        template.render(messages=[{"role": "narrator", "content": "x"}], eos_token="")


def nested(depth):
    """A list in a list, and so on."""
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def call_of(arguments):
    return {"name": "f", "arguments": arguments}


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize(
    "record",
    [
        lambda depth: talk(
            USER, {"role": "assistant", "tool_calls": [call_of(f'{{"a":{"[" * depth}{"]" * depth}}}')]}
        ),
        lambda depth: talk(USER, {"role": "assistant", "tool_calls": [call_of({"a": nested(depth)})]}),
        lambda depth: talk(USER, {"role": nested(depth), "content": "x"}),
        lambda depth: talk(USER, {"role": "assistant", "content": nested(depth)}),
        lambda depth: {"messages": nested(depth)},
        lambda depth: {
            "conversations": [
                {"from": "human", "value": "x"},
                {
                    "from": "function_call",
                    "value": f'{{"name": "f", "arguments": {{"a":{"[" * depth}{"]" * depth}}}}}',
                },
            ]
        },
        lambda depth: {"conversations": [{"from": nested(depth), "value": "x"}]},
        lambda depth: {"prompt": nested(depth), "completion": "x"},
    ],
)
def test_a_value_nested_without_end_is_refused_with_its_place(record, depth):
    found = refusal(record(depth))

    assert "nested more than 100 levels deep" in found
    assert "a.jsonl:1" in found


def test_arguments_may_be_nested_as_deeply_as_anybody_writes_them():
    inner = nested(90)
    given = turns(talk(USER, {"role": "assistant", "tool_calls": [call_of({"a": inner})]}))

    assert given == turns(
        talk(USER, {"role": "assistant", "tool_calls": [call_of(json.dumps({"a": inner}))]})
    )
    assert "[" * 90 in given[-1][1]
