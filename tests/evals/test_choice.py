"""Own questions: what they score, when two ways of asking differ, and every refusal."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError, DataError
from scalelab.evals.tasks.benchmarks import BenchmarkTask
from scalelab.evals.tasks.harness import EvalConditions, TaskResult, TaskSample
from scalelab.evals.tasks.multiple_choice import ChoiceTask, GenerationTask
from scalelab.evals.tasks.rows import read_rows
from scalelab.evals.tasks.scores import conditions_text, mean, score, share, side_by_side

ROW = {"question": "Which is red?", "choices": ["grass", "blood"], "answer": 1}
UNDER = EvalConditions(
    model="runs/a",
    digest="abc",
    route="in process",
    harness="0.4.13",
    prefix="<|endoftext|>",
    chat=False,
    shots=0,
    shot_seed=0,
    limit=None,
    n_truncated=0,
    n_tokens_cut=0,
)


def sample(logprobs, gold, answers=None, n_tokens=None, key="k"):
    answers = answers or [f"answer {i}" for i in range(len(logprobs))]
    return TaskSample(
        row={},
        key=key,
        target=gold,
        prompts=("q",) * len(answers),
        answers=tuple(answers),
        logprobs=tuple(logprobs),
        n_tokens=tuple(n_tokens or [1] * len(answers)),
        n_cut=0,
        written=None,
        metrics={},
    )


def scored(samples, mode="full", template="{question}", task="t", **changes):
    result = TaskResult(task, task, replace(UNDER, **changes), {}, tuple(samples), {})
    return score(result, mode, template)


def drawn(n, p, seed, **settings):
    """A score of n rows of four choices, of which a share p comes out right."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(4, size=n)
    right = rng.random(n) < p
    best = np.where(right, gold, (gold + 1) % 4)
    rows = [
        sample(np.where(np.arange(4) == b, -1.0, -2.0), int(g), key=f"row {i}")
        for i, (b, g) in enumerate(zip(best, gold, strict=True))
    ]
    return scored(rows, **settings)


def test_three_accuracies_divide_by_one_by_characters_and_by_bytes():
    """-3 nats for 2 characters of 4 bytes, -4 for 3 of 3, -2 for 1 of 1: each has its winner."""
    answers = ["üü", "abc", "d"]
    rows = [sample([-3.0, -4.0, -2.0], gold, answers) for gold in range(3)]

    full = scored(rows)

    assert full.is_right.tolist() == [False, False, True]
    assert (full.accuracy.value, full.accuracy_chars.value) == (1 / 3, 1 / 3)
    per_char = [scored([row]).accuracy_chars.value for row in rows]
    per_byte = [scored([row]).accuracy_bytes.value for row in rows]
    assert per_char == [0, 1, 0]
    assert per_byte == [1, 0, 0]


def test_letters_are_all_as_long():
    letters = scored([sample([-1.0, -2.0], 0, ["A", "B"])], mode="letter")

    assert letters.accuracy.value == 1
    assert letters.accuracy_chars is letters.accuracy_bytes is None
    assert "by characters" not in letters.text


def test_chance_is_the_mean_over_rows_of_one_in_so_many():
    full = scored([sample([-1.0, -2.0], 0), sample([-1.0, -2.0, -3.0, -4.0], 0)])

    assert full.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert full.above_chance.value == pytest.approx(1)


def test_below_chance_is_negative_and_not_cut():
    full = scored([sample([-1.0, -2.0, -3.0, -4.0], 1)] * 5)

    assert full.above_chance.value == pytest.approx(-1 / 3)


def test_the_right_answers_likelihood_is_per_token_per_byte_and_among_the_choices():
    rows = [sample([-6.0, -2.0], 0, ["üb", "no"], [2, 1]), sample([-1.0, -3.0], 0, ["yes", "no"], [4, 1])]

    full = scored(rows)

    assert full.loss_per_token.value == pytest.approx((6 / 2 + 1 / 4) / 2)
    assert full.loss_per_byte.value == pytest.approx((6 / 3 + 1 / 3) / 2)
    expected = (np.exp(-6) / (np.exp(-6) + np.exp(-2)) + 1 / (1 + np.exp(-2))) / 2
    assert full.probability.value == pytest.approx(expected)


def test_an_impossible_answer_does_not_break_the_probability():
    assert scored([sample([-2000.0, -2001.0], 0)]).probability.value == pytest.approx(0.7310586)


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 10), (190, 400)])
def test_the_interval_of_a_share_is_wilsons(right, n):
    found = share(np.arange(n) < right)

    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_interval_of_a_mean_covers_it():
    rng = np.random.default_rng(0)
    covers = [(e := mean(rng.exponential(size=50), seed=i)).low <= 1 <= e.high for i in range(200)]

    assert np.mean(covers) == pytest.approx(0.94, abs=0.045)


def test_the_standard_error_is_that_of_a_mean():
    values = np.array([0.0, 1.0, 4.0])

    assert mean(values).standard_error == pytest.approx(values.std(ddof=1) / 3**0.5)
    assert np.isnan(mean(values[:1]).standard_error)


def test_every_score_says_how_it_was_taken():
    line = scored(
        [sample([-1.0, -2.0], 0)],
        template="Q: {question}",
        shots=5,
        chat=True,
        prefix="none",
        limit=3,
        n_truncated=2,
        n_tokens_cut=17,
    ).text

    for part in (
        "5 shots (seed 0)",
        "read after none",
        "conversation",
        "first 3 rows only",
        "in process",
        "lm-eval 0.4.13",
        "'Q: {question}'",
        "chance 0.500",
        "measured",
        "17 tokens cut on the left of 2 requests",
    ):
        assert part in line
    assert "cut" not in conditions_text(UNDER)


def test_a_planted_difference_between_modes_is_found():
    full, letter = drawn(500, 0.8, 1), drawn(500, 0.8, 1, mode="letter")
    letter = replace(letter, logprobs=tuple(np.roll(r, i % 5 == 0) for i, r in enumerate(letter.logprobs)))

    (found,) = side_by_side([full, letter])

    expected = letter.is_right.mean() - full.is_right.mean()
    assert found.difference.value == pytest.approx(expected)
    assert found.difference.high < 0
    assert found.n_one_way_only == np.sum(letter.is_right != full.is_right)
    assert found.differs == ("mode",)
    assert "they differ; other: mode" in found.text


def test_rows_are_paired_whatever_their_order():
    full = drawn(60, 0.5, 2)
    order = np.random.default_rng(0).permutation(60)
    other = replace(
        full,
        template="other {question}",
        gold=full.gold[order],
        keys=tuple(np.array(full.keys)[order]),
        logprobs=tuple(full.logprobs[i] for i in order),
    )

    (found,) = side_by_side([full, other])

    assert (found.difference.value, found.n_one_way_only) == (0, 0)
    assert "are not significantly different" in found.text


def test_pairing_narrows_the_interval():
    """Two ways that agree on nearly every row: the difference is surer than either score."""
    full = drawn(400, 0.6, 3)
    other = replace(full, mode="letter", gold=np.where(np.arange(400) < 8, 9, full.gold) % 4)

    (found,) = side_by_side([full, other])

    assert found.difference.high - found.difference.low < 0.05
    assert full.accuracy.high - full.accuracy.low > 0.09


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"digest": "xyz", "model": "runs/b"}, "two models: runs/a and runs/b"),
        ({}, "asked twice in the same way"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(other, says):
    first = drawn(10, 0.5, 4)
    second = replace(first, conditions=replace(UNDER, **other))

    with pytest.raises(DataError, match=says):
        side_by_side([first, second])


def test_other_rows_cannot_stand_side_by_side():
    with pytest.raises(DataError, match="did not ask the same rows"):
        side_by_side([drawn(10, 0.5, 4), drawn(9, 0.5, 4, mode="letter")])


def test_one_score_has_nothing_beside_it():
    with pytest.raises(DataError, match="one score"):
        side_by_side([drawn(10, 0.5, 4)])


def test_a_right_answer_that_lm_eval_gives_as_text_is_found():
    text = scored([sample([-3.0, -1.0], "answer 1")])

    assert text.accuracy.value == 1


def test_a_task_without_choices_has_no_score():
    bare = TaskSample({}, "k", "t", ("q",), (), (), (), 0, None, {})

    with pytest.raises(DataError, match="does not choose among answers"):
        scored([bare])


def tasks_of(text):
    return ChoiceTask.parse(parse_yaml(text, "task.yaml"))


def test_a_task_is_a_few_lines_of_yaml(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        json.dumps({"q": "Which is red?", "a": ["grass", "blood"], "gold": "blood", "hint": "warm"})
    )
    task = tasks_of(
        f"name: colours\nrows: {file}\nquestion: q\nchoices: a\nanswer: gold\n"
        "template: '({hint}) {question}'\nmodes: [full, letter]\n"
    )

    (full, mode, template), (letter, _, letters) = task.own_tasks()

    assert (full.name, mode, template) == ("colours.full", "full", "({hint}) {question}")
    assert full.rows[0]["prompt"] == "(warm) Which is red?"
    assert full.rows[0]["choices"] == ["grass", "blood"]
    assert letter.rows[0]["prompt"] == "Which is red?\nA. grass\nB. blood\nAnswer:"
    assert letter.rows[0]["choices"] == ["A", "B"]
    assert [t.rows[0]["gold"] for t in (full, letter)] == [1, 1]
    assert full.rows[0]["key"] == letter.rows[0]["key"]
    assert letters == task.letters_template


def test_equal_tasks_have_equal_digests():
    make = lambda **c: ChoiceTask(**({"name": "x", "rows": (ROW,)} | c)).digest  # noqa: E731

    assert make() == make()
    assert make() != make(template="Q: {question}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": 2}, "answer is 2, but the 2 choices are counted 0 to 1"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "answer is True, which is none of the choices"),
        ({"answer": "sky"}, "answer is 'sky', which is none of the choices"),
        ({"answer": None}, "answer is None, which is none of the choices"),
        ({"choices": ["blood"]}, r"1 choice\(s\): nothing to choose from"),
        ({"choices": ["blood", "blood"]}, "the choice 'blood' occurs twice"),
        ({"choices": ["blood", ""]}, "choice 1 is empty"),
        ({"choices": "blood"}, "not a list of texts"),
        ({"choices": ["blood", 3]}, "not a list of texts"),
        ({"question": ""}, "question is '', not a text"),
        ({"question": 7}, "question is 7, not a text"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(change, says, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n\n{json.dumps(ROW | change)}\n")

    with pytest.raises(DataError, match=says) as caught:
        ChoiceTask(name="x", rows=str(file)).own_tasks()

    assert caught.value.where == f"{file}:3"


@pytest.mark.parametrize("name", ["question", "choices", "answer"])
def test_a_row_without_a_field_is_refused(name, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({k: v for k, v in ROW.items() if k != name}))

    with pytest.raises(DataError, match=f"the row has no '{name}'") as caught:
        ChoiceTask(name="x", rows=str(file)).own_tasks()

    assert caught.value.where == f"{file}:1"


def test_a_template_that_names_a_missing_field_is_refused():
    task = ChoiceTask(name="x", rows=(ROW,), template="{passage} {question}")

    with pytest.raises(DataError, match="the row has no 'passage'") as caught:
        task.own_tasks()

    assert caught.value.where == "task x, row 0"


def test_more_choices_than_letters_are_refused():
    row = {"question": "which", "choices": [str(i) for i in range(27)], "answer": 0}

    with pytest.raises(DataError, match="27 choices are more than there are letters"):
        ChoiceTask(name="x", rows=(row,), modes=("letter",)).own_tasks()


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("[1, 2]", "the record is list, not an object with fields", 1),
        (json.dumps(ROW) + "\n{oops", "not JSON", 2),
    ],
)
def test_a_line_that_is_no_row_is_refused(text, says, line, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)

    with pytest.raises(DataError, match=says) as caught:
        read_rows(str(file), "x")

    assert caught.value.where == f"{file}:{line}"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read none\.jsonl: No such file"):
        read_rows(str(tmp_path / "none.jsonl"), "x")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_rows(str(tmp_path / "rows.jsonl"), "x")


@pytest.mark.parametrize("rows", ["", ()])
def test_no_rows_are_refused(rows, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")

    with pytest.raises(DataError, match="there are no rows"):
        read_rows(str(tmp_path / "rows.jsonl") if rows == "" else rows, "x")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("template: hello", "leaves no place for the question"),
        ("template: '{question'", "expected '}' before end of string"),
        ("template: '{question.upper}'", "is no name of a field"),
        ("modes: [letter]\nletters_template: '{question}'", "does not show the {options}"),
        ("modes: [full, full]", "a mode is named twice"),
        ("modes: []", "at least 1 item"),
        ("mode: full", "unknown key 'mode'; did you mean 'modes'"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(lines, says):
    with pytest.raises(ConfigError) as caught:
        tasks_of(f"name: x\nrows: rows.jsonl\n{lines}\n")

    assert says in str(caught.value)
    assert "task.yaml:" in caught.value.where


def test_written_answers_are_compared_without_what_does_not_count():
    task = GenerationTask(name="x", rows=({"prompt": "p", "answer": ["The  Blood.", "red"]},))
    strict = task.model_copy(update={"ignore_case": False})
    loose = task.model_copy(update={"ignore_punctuation": True})

    def is_right(some, written):
        (own, _, _) = some.own_tasks()[0]
        return own.settings["process_results"](own.rows[0], [written])["exact_match"]

    assert is_right(task, "  the blood. \n") == 1
    assert is_right(task, "RED") == 1
    assert is_right(task, "the blood") == 0
    assert is_right(strict, "RED") == 0
    assert is_right(loose, "the, blood") == 1


def test_written_answers_are_scored():
    rows = [
        TaskSample({}, f"k{i}", "red", ("q",), (), (), (), 0, w, {"exact_match": float(w == "red")})
        for i, w in enumerate(("red", "blue", "red"))
    ]
    found = score(TaskResult("x", "x", UNDER, {"exact_match": 2 / 3}, tuple(rows), {}), "written", "{p}")

    assert found.is_right.tolist() == [True, False, True]
    assert found.written == ("red", "blue", "red")
    assert "exact match 0.667" in found.text


@pytest.mark.parametrize("answer", ["", [], [""], 3, ["a", None]])
def test_a_row_with_nothing_to_write_is_refused(answer):
    with pytest.raises(DataError) as caught:
        GenerationTask(name="x", rows=({"prompt": "p", "answer": answer},)).own_tasks()

    assert "answer" in caught.value.problem
    assert caught.value.where == "task x, row 0"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "piqa", "subject": "anatomy"}, "piqa has no subjects"),
        ({"name": "mmlu", "data_files": {"test": "x.jsonl"}}, "holds one subject: say which"),
    ],
)
def test_a_known_test_in_other_words_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        BenchmarkTask(**settings)
