"""SFT: what counts, how rows are packed, that it learns, and what it refuses."""

import json

import pytest
import torch

from scalelab.config import changed
from scalelab.data.chat import Example
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.file_conversations import FileConversations
from scalelab.evals.conversations.skill_conversations import SkillConversations
from scalelab.posttrain.base import StageContext
from scalelab.posttrain.stages.sft import Sft, SftJob, collate, pack_rows


def example(*tokens, answers=2):
    marks = [False] * (len(tokens) - answers) + [True] * answers
    return Example(tokens, tuple(marks))


def learning(base, out, conversations=None, **changes):
    stage = Sft.model_validate({"name": "sft", "examples": 16, "rates": {"lr": 1e-2}} | changes)
    out.mkdir(exist_ok=True)
    return SftJob(stage, StageContext(stage, conversations or SkillConversations(), 0, {"base": base}, out))


def test_packing_leaves_nothing_out_and_keeps_within_the_context():
    examples = [example(*range(n)) for n in (5, 9, 3, 4, 8, 2, 7, 10)]

    rows = pack_rows(examples, seq_len=11)

    flat = [e for row in rows for e in row]
    assert sorted(map(id, flat)) == sorted(map(id, examples))
    assert all(sum(len(e.tokens) for e in row) <= 12 for row in rows)
    assert len(rows) < len(examples)


def test_collated_rows_count_answers_only_and_keep_examples_apart():
    rows = [(example(1, 2, 3, 4), example(5, 6, 7)), (example(8, 9, 10),)]

    tokens, counts, segments = collate(rows, 0, torch.device("cpu"))

    assert tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 0, 0, 0, 0]]
    assert counts.tolist() == [[0, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0, 0]]
    assert segments.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, -1, -1, -1]]


def test_a_packed_batch_has_the_loss_of_its_examples_alone(base, tmp_path):
    plain = learning(base, tmp_path / "a", batch=16)
    tight = learning(base, tmp_path / "b", batch=16, packing=True)
    assert len(tight.rows) < len(plain.rows)

    one, two = plain.step(0), tight.step(0)

    assert two.numbers["loss"] == pytest.approx(one.numbers["loss"], rel=1e-5)
    assert two.numbers["grad_norm"] == pytest.approx(one.numbers["grad_norm"], rel=1e-4)
    assert two.tokens == one.tokens


def test_it_learns_the_answers_of_its_examples(done, sft):
    same = sft(examples=4, batch=4, min_steps=120, rates={"lr": 1e-2})

    stage = done(same)["sft"]

    losses = [e["loss"] for e in stage.dir.run_dir.events() if e["event"] == "step"]
    assert losses[-1] < 0.2 < 2 < losses[0]
    model = Checkpoint.load(stage.dir.path)
    said = SkillConversations().training(4, 0)
    prompts = [model.chat.prompt(talk[:-1]) for talk in said]
    answers = [model.chat.read(row) for row in model.generate_tokens(prompts, n_new=50)]
    assert answers == [talk[-1]["content"] for talk in said]


def test_a_few_examples_are_written_with_their_mask(done, sft):
    stage = done(sft())["sft"]

    text = (stage.dir.path / "batch.txt").read_text()

    question, answer = (m["content"] for m in SkillConversations().training(1, 0)[0])
    assert f"<|user|> {question}<|assistant|>[ {answer}<|endoftext|>]" in text


def test_low_rank_changes_leave_embedding_and_norms_alone(done, sft, base):
    stage = done(sft(lora={"rank": 2}, min_steps=10))["sft"]

    after, before = Checkpoint.load(stage.dir.path), Checkpoint.load(base)
    for name, weight in after.network.state_dict().items():
        old = before.network.state_dict()[name]
        same = torch.equal(weight[: len(old)], old)
        assert same == (name.rsplit(".")[-1] not in {"qkv", "out", "gate_up", "down"}), name
        if not same:
            assert torch.linalg.matrix_rank(weight - old, atol=1e-5) <= 2


def test_low_rank_changes_begin_with_the_model_itself(base, tmp_path):
    plain, low = learning(base, tmp_path / "a"), learning(base, tmp_path / "b", lora={"rank": 4})

    losses = [each.step(0).numbers["loss"] for each in (low, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_replay_keeps_what_the_base_knew(done, sft, base):
    """Updates that only answer move the loss on the base's text up; replay takes it down."""
    from scalelab.data.corpus.shards import open_corpus
    from scalelab.data.corpus.stream import validation_windows
    from scalelab.train.evaluate import validation_loss

    long = {"examples": 16, "batch": 8, "min_steps": 60}
    stages = done(sft(**long), sft(**long, name="kept", replay=1.0))

    def loss(path):
        model = Checkpoint.load(path)
        windows = validation_windows(open_corpus(model.corpus), 128, 4096)
        return validation_loss(model.network, windows, model.device, model.config.vocab_size)[0]

    before, forgot, kept = (loss(path) for path in (base, stages["sft"].dir.path, stages["kept"].dir.path))
    assert kept < before - 0.5
    assert kept < forgot - 0.5
    events = [e for e in stages["kept"].dir.run_dir.events() if e["event"] == "step"]
    assert events[-1]["replay_loss"] < events[0]["replay_loss"]
    assert stages["kept"].dir.result().flops > stages["sft"].dir.result().flops * 1.5


def test_replay_without_a_corpus_or_a_window_is_refused(base, tmp_path):
    from dataclasses import replace

    from scalelab.posttrain.stages.sft import replay_stream

    model = Checkpoint.load(base)
    few = Sft.model_validate({"name": "s", "replay": 0.01, "batch": 8, "rates": {"lr": 1e-3}})
    some = few.model_copy(update={"replay": 0.5})

    assert "is less than one window" in refused(lambda: replay_stream(model, few, 0))
    unknown = replace(model, corpus=None)
    assert "training corpus is not recorded" in refused(lambda: replay_stream(unknown, some, 0))


def test_a_series_is_a_stage_for_each_size(done, sft):
    stages = done(sft(examples=None, sizes=[4, 8, 16]))

    assert list(stages) == ["sft-4", "sft-8", "sft"]
    assert [s.dir.result().metrics["examples"] for s in stages.values()] == [4, 8, 16]


def test_the_tokenizer_goes_along_with_markers(done, sft, base):
    model = Checkpoint.load(done(sft())["sft"].dir.path)

    assert model.chat is not None
    assert model.config.vocab_size == Checkpoint.load(base).config.vocab_size + 4


def refused(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)


def jsonl(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return FileConversations(train=(str(path),))


GOOD = {"prompt": "say a", "completion": "a"}


def test_conversations_that_are_too_long_are_counted_and_named(base, tmp_path):
    long = {"prompt": "x" * 200, "completion": "a"}
    talks = jsonl(tmp_path / "a.jsonl", GOOD, long, GOOD, long)

    said = refused(lambda: learning(base, tmp_path / "o", talks, examples=None))

    assert "2 of 4 conversations exceed the context of 128 tokens" in said
    assert "conversations 2, 4" in said
    assert "too_long: drop" in said
    assert "fix:" in said


def test_conversations_that_are_too_long_are_dropped_or_cut_and_counted(base, tmp_path):
    """The context has 128 tokens of one byte; a marker or an end is a token of its own."""
    long_answer = {"prompt": "say", "completion": "b" * 200}
    long_prompt = {"prompt": "x" * 200, "completion": "a"}
    talks = jsonl(tmp_path / "a.jsonl", GOOD, long_answer, long_prompt, GOOD)

    dropped = learning(base, tmp_path / "d", talks, examples=None, too_long="drop")
    cut = learning(base, tmp_path / "c", talks, examples=None, too_long="truncate")

    assert [len(e.tokens) for e in dropped.examples] == [11, 11]
    assert dropped.finish(tmp_path / "d").metrics["examples_dropped"] == 2
    assert dropped.finish(tmp_path / "d").metrics["examples_truncated"] == 0
    assert [len(e.tokens) for e in cut.examples] == [11, 129, 11]
    assert cut.examples[1].tokens.count(cut.start.chat.end) == 0
    assert sum(cut.examples[1].is_answer) == 129 - len("m say" + "m")
    metrics = cut.finish(tmp_path / "c").metrics
    assert (metrics["examples"], metrics["examples_dropped"], metrics["examples_truncated"]) == (3, 1, 1)
    default = learning(base, tmp_path / "c", jsonl(tmp_path / "g.jsonl", GOOD), examples=None)
    assert not any("dropped" in name for name in default.finish(tmp_path / "c").metrics)
    only = jsonl(tmp_path / "b.jsonl", long_prompt)
    for too_long in ("drop", "truncate"):
        said = refused(lambda t=too_long: learning(base, tmp_path / "n", only, examples=None, too_long=t))
        assert "none of 1 conversations has an answer within the context of 128 tokens" in said


def test_what_was_dropped_is_printed_and_the_default_changes_no_id(sft):
    stage = Sft.model_validate(sft(too_long="drop"))
    metrics = {"examples": 2, "examples_dropped": 3, "examples_truncated": 0}
    result = type("Result", (), {"metrics": metrics})()

    assert stage.display(result).headline == {"examples_dropped": 3, "examples_truncated": 0}
    assert "too_long" in changed(stage)
    assert "too_long" not in changed(Sft.model_validate(sft()))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"text": "x"}, "the record has no 'prompt' and no 'completion'"),
        ({"prompt": "x", "completion": " "}, "the answer of the assistant is empty"),
        ({"prompt": "x", "completion": None}, "the record has no 'completion'"),
        ({"prompt": 3, "completion": "a"}, "no messages"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "layout messages",
        ),
        ({**GOOD, "messages": []}, "the fields of two layouts: messages"),
        ({**GOOD, "label": True}, "not conversations"),
    ],
)
def test_a_record_that_is_no_conversation_is_named_with_its_line(base, tmp_path, record, what):
    talks = jsonl(tmp_path / "a.jsonl", GOOD, record)

    said = refused(lambda: learning(base, tmp_path / "o", talks, examples=None))

    assert what in said
    assert f"where: {tmp_path / 'a.jsonl'}:2" in said
    assert "fix:" in said


def test_records_that_cannot_be_read_are_refused_together(base, tmp_path):
    empty = {"prompt": "x", "completion": ""}
    talks = jsonl(tmp_path / "a.jsonl", GOOD, empty, GOOD, empty, empty)

    said = refused(lambda: learning(base, tmp_path / "o", talks, examples=None))

    assert "the answer of the assistant is empty (and 2 more records that cannot be read)" in said
    assert all(f"a.jsonl:{line}, completion" in said for line in (2, 4, 5))


def test_more_conversations_than_there_are_is_refused(base, tmp_path):
    talks = jsonl(tmp_path / "a.jsonl", GOOD)

    said = refused(lambda: learning(base, tmp_path / "o", talks, examples=5))

    assert "5 conversations were requested, but there are only 1" in said


def test_no_conversation_at_all_is_refused(base, tmp_path):
    talks = jsonl(tmp_path / "a.jsonl")

    assert "no training conversations" in refused(
        lambda: learning(base, tmp_path / "o", talks, examples=None)
    )


def test_all_labels_masked_is_refused():
    from scalelab.posttrain.stages.sft import check_examples

    nothing = Example((1, 2, 9), (False, False, False))

    said = refused(lambda: check_examples([nothing], end=9))

    assert "1 conversations have no answer to train on" in said


def test_two_ends_for_one_answer_is_refused():
    from scalelab.posttrain.stages.sft import check_examples

    twice = Example((1, 9, 2, 9), (False, False, True, True))

    assert "2 end tokens for 1 answers" in refused(lambda: check_examples([twice], end=9))


def test_parquet_is_read_as_jsonl_is(base, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([GOOD, GOOD]), tmp_path / "a.parquet")

    talks = FileConversations(train=(str(tmp_path / "a.parquet"),))

    assert talks.training(None, 0) == jsonl(tmp_path / "a.jsonl", GOOD, GOOD).training(None, 0)


def test_a_test_file_is_held_out_and_judged_by_the_reference(tmp_path):
    talks = FileConversations(train=(str(tmp_path / "a.jsonl"),), test=(str(tmp_path / "b.jsonl"),))
    jsonl(tmp_path / "a.jsonl", GOOD)
    jsonl(tmp_path / "b.jsonl", {"prompt": "p", "completion": "one two"})

    (prompt,) = talks.tests(10)["test"]

    assert talks.is_right(prompt, " one  two ")
    assert not talks.is_right(prompt, "one")
    assert talks.gold(prompt, "one two") is None
