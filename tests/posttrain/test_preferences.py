"""Preferences, the reward model and DPO: what they learn, what they count, what they refuse."""

import json

import numpy as np
import pytest

from scalelab.errors import DataError
from scalelab.evals.conversations.base import Prompt
from scalelab.evals.conversations.skill_conversations import SkillConversations
from scalelab.evals.preference.judges.base import JudgeSession
from scalelab.evals.preference.judges.gold import GoldJudge
from scalelab.evals.preference.judges.model import read_letter
from scalelab.evals.preference.judges.person import PersonJudge, read_person_verdict
from scalelab.evals.reward_model import RewardModel
from scalelab.files import append
from scalelab.posttrain.base import StageContext
from scalelab.posttrain.pairs import load_pairs
from scalelab.posttrain.stages.best_of import best_of
from scalelab.posttrain.stages.preferences import PAIRS, complete_batches, read_pairs
from scalelab.posttrain.stages.reward import calibration
from scalelab.sealed import line

PAIR_STAGE = {
    "kind": "preferences",
    "name": "pairs",
    "first": "sft",
    "judge": "gold",
    "prompts": 60,
    "batch": 16,
    "n_new": 16,
}


def pairs_file(path, n=80, **changes):
    """Pairs in which the shorter answer is always the better one."""
    rows = [
        {"prompt": f"question {i}", "chosen": "ab"[i % 2], "rejected": "c" * (3 + i % 4)} | changes
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def assistant(done, sft):
    return done(sft())["sft"].dir.path


def test_every_comparison_is_kept_and_counted(done, sft):
    stages = done(sft(), PAIR_STAGE)

    rows = read_pairs(stages["pairs"].dir.path / PAIRS)
    metrics = stages["pairs"].dir.result().metrics
    assert len(rows) == metrics["comparisons"] == 60
    assert metrics["decided"] + metrics["ties"] + metrics["unreadable"] == 60
    conversations = SkillConversations()
    prompts = conversations.prompts(60, 0, "pairs")
    for row, prompt in zip(rows, prompts, strict=True):
        assert row["prompt"] == list(prompt.messages)
        better, worse = (conversations.gold(prompt, row[k]) for k in ("chosen", "rejected"))
        assert better >= worse


def test_the_flips_of_a_judge_are_as_many_as_asked():
    prompts = SkillConversations().prompts(2000, 0, "x")
    right, wrong = [p.reference for p in prompts], ["nonsense"] * 2000

    session = GoldJudge(flips=0.25).open_session(SkillConversations(), {}, seed=0)
    verdicts = session(prompts, right, wrong, 0)

    assert np.mean(np.array(verdicts) == 0) == pytest.approx(0.25, abs=0.03)
    assert session.n == 2000
    assert (
        GoldJudge(flips=0.25).open_session(SkillConversations(), {}, 0)(prompts, right, wrong, 0) == verdicts
    )


def pair_rows(n_steps=3, of=2):
    """Rows of a stage, as it wrote them before the checksums."""
    row = {
        "prompt": [],
        "chosen": "a",
        "rejected": "b",
        "first_is_chosen": True,
        "verdict": 1.0,
        "others": [],
        "tokens": [1, 1],
        "written": [[1], [2]],
        "ended": [True, False],
        "tokenizers": ["a", "a"],
        "same_in_both_orders": None,
    }
    return [{"step": k, "of": of, "judge_flops": float(i)} | row for k in range(n_steps) for i in range(of)]


def test_of_a_torn_file_of_pairs_the_whole_batches_stand(tmp_path):
    rows, path = pair_rows(), tmp_path / PAIRS
    path.write_text("".join(json.dumps(row) + "\n" for row in rows)[:-9])

    assert complete_batches(path) == ({0: rows[:2], 1: rows[2:4]}, 0)

    again = [row | {"i": i, "verdict": 0.0} for i, row in enumerate(rows[4:])]
    append(path, "".join(map(line, again)))
    batches, n_bad = complete_batches(path)
    assert n_bad == 1
    assert [row["verdict"] for row in batches[2]] == [0.0, 0.0]  # what was made again stands


def test_a_damaged_line_of_pairs_takes_its_batch_with_it(tmp_path):
    rows = [row | {"i": int(row["judge_flops"])} for row in pair_rows()]
    path = tmp_path / PAIRS
    path.write_text("".join(map(line, rows)).replace('"verdict":1.0', '"verdict":0.0', 1))

    batches, n_bad = complete_batches(path)

    assert (sorted(batches), n_bad) == ([1, 2], 1)
    with pytest.raises(DataError, match="damaged lines: 1"):
        read_pairs(path)


def test_other_judges_of_the_same_answers_say_how_far_they_agree(done, sft):
    stages = done(sft(), PAIR_STAGE | {"others": ["gold", {"kind": "gold", "flips": 0.3}]})

    metrics = stages["pairs"].dir.result().metrics
    assert metrics["agreement.1-gold.raw"] == 1.0
    assert metrics["agreement.2-gold.raw"] < 1.0  # the one that errs
    assert metrics["agreement.2-gold.cohen_kappa"] < 1.0
    assert metrics["agreement.2-gold.krippendorff_alpha"] < 1.0


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", 1.0),
        (" b.", 0.0),
        ("(A)", 1.0),
        ("Tie", 0.5),
        ("A is better", 1.0),
        ("I like both of them", None),
        ("", None),
        ("Answer", None),
    ],
)
def test_letters_are_read_and_nothing_is_guessed(reply, verdict):
    assert read_letter(reply) == verdict


def test_a_judge_that_cannot_be_read_is_refused():
    session = JudgeSession(lambda prompts, one, two, before: [None] * len(prompts))
    prompt = [Prompt(({"role": "user", "content": "?"},))] * 10
    session(prompt, ["a"] * 10, ["b"] * 10, 0)

    with pytest.raises(DataError) as refused:
        session(prompt, ["a"] * 10, ["b"] * 10, 10)

    assert "20 of the judge's 20 verdicts cannot be read" in str(refused.value)
    assert "fix:" in str(refused.value)


def test_a_model_is_a_judge_and_its_off_format_replies_are_refused(done, sft):
    from scalelab.errors import ScalelabError

    judge = {"kind": "model", "model": "sft", "ask": "{question} {a} {b}", "n_new": 2}

    with pytest.raises(ScalelabError) as refused:
        done(sft(), PAIR_STAGE | {"judge": judge})

    assert "of the judge's" in str(refused.value)
    assert "verdicts cannot be read" in str(refused.value)


def test_a_person_needs_a_terminal():
    with pytest.raises(DataError, match="needs an interactive terminal"):
        PersonJudge().open_session(SkillConversations(), {}, 0)


def test_a_person_is_asked_until_the_answer_can_be_read(monkeypatch, capsys):
    said = iter(["?", "first", " B "])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))

    assert read_person_verdict(Prompt(({"role": "user", "content": "q"},)), "x", "y") == 0.0
    assert capsys.readouterr().out.count("type a, b, = or s") == 2


def test_a_person_sees_the_answers_in_drawn_order(monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    seen = []

    def choose(prompt, one, two):
        seen.append(one)
        return 1.0 if one == "good" else 0.0

    monkeypatch.setattr("scalelab.evals.preference.judges.person.read_person_verdict", choose)
    prompts = SkillConversations().prompts(40, 0, "x")

    verdicts = PersonJudge().open_session(SkillConversations(), {}, 0)(
        prompts, ["good"] * 40, ["bad"] * 40, 0
    )

    assert verdicts == [1.0] * 40
    assert 8 < seen.count("good") < 32


def test_a_reward_model_learns_what_is_preferred(done, sft, tmp_path):
    source = pairs_file(tmp_path / "p.jsonl", n=200)

    stages = done(
        sft(),
        {
            "kind": "reward",
            "name": "rm",
            "start": "sft",
            "pairs": source,
            "epochs": 4,
            "batch": 16,
            "rates": {"lr": 1e-2},
        },
    )

    result = stages["rm"].dir.result()
    assert result.metrics["held_out.accuracy"] > 0.9
    model = RewardModel.load(stages["rm"].dir.path)
    chat = model.chat
    prompt = chat.prompt([{"role": "user", "content": "question 7"}])
    short, long = model.score([prompt + chat.answer("a"), prompt + chat.answer("ccccc")])
    assert short > long


def test_calibration_of_margins_that_come_true():
    margins = np.random.default_rng(0).normal(0, 2, 20_000)
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    came_true = np.random.default_rng(1).random(20_000) < sure

    honest = calibration(np.where(came_true, 1, -1) * np.abs(margins))
    boastful = calibration(np.where(came_true, 1, -1) * np.abs(margins) * 4)

    assert honest["calibration_error"] < 0.02
    assert boastful["calibration_error"] > 0.05
    assert calibration(np.zeros(10))["accuracy"] == 0.5


def test_dpo_raises_the_margin_and_shows_what_becomes_of_the_chosen(done, sft, tmp_path):
    source = pairs_file(tmp_path / "p.jsonl")

    stages = done(
        sft(),
        {
            "kind": "dpo",
            "name": "dpo",
            "start": "sft",
            "pairs": source,
            "min_steps": 30,
            "batch": 16,
            "rates": {"lr": 3e-3},
        },
    )

    events = [e for e in stages["dpo"].dir.run_dir.events() if e["event"] == "step"]
    assert events[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert events[-1]["margin"] > 1
    assert {"logp_chosen", "logp_rejected", "logp_chosen_change"} <= set(events[-1])
    looks = [e for e in stages["dpo"].dir.run_dir.events() if e["event"] == "eval"]
    assert {"held_out.gold", "held_out.logp_chosen"} <= set(looks[-1])
    assert stages["dpo"].dir.result().metrics["held_out.preference_accuracy"] > 0.9


def test_an_sft_term_holds_the_chosen_up(done, sft, tmp_path):
    source = pairs_file(tmp_path / "p.jsonl")
    stage = {
        "kind": "dpo",
        "start": "sft",
        "pairs": source,
        "min_steps": 30,
        "batch": 16,
        "rates": {"lr": 3e-3},
    }

    stages = done(sft(), stage | {"name": "bare"}, stage | {"name": "held", "sft_weight": 1.0})

    bare, held = (stages[n].dir.result().metrics["held_out.logp_chosen_change"] for n in ("bare", "held"))
    assert held > bare


def given(assistant, out, **paths):
    return StageContext(None, SkillConversations(), 0, {"sft": assistant, **paths}, out)


def refusal(assistant, tmp_path, source, n=None):
    start = given(assistant, tmp_path).model("sft")
    with pytest.raises(DataError) as refused:
        load_pairs(given(assistant, tmp_path), source, start, n)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "n", "what"),
    [
        ({"n": 0}, None, "no pair is decided; 0 are undecided"),
        ({"verdict": 0.5}, None, "no pair is decided; 80 are undecided"),
        ({"chosen": "a", "rejected": "a"}, None, "the two answers are identical in all 80 pairs"),
        ({"prompt": "x" * 200}, None, "80 of 80 pairs exceed the context"),
        ({"prompt": 4}, None, "no messages"),
        ({"verdict": "tie"}, None, "the verdict is 'tie', not a number from 0 to 1"),
        ({"verdict": []}, None, "the verdict is []"),
        ({"verdict": 7}, None, "the verdict is 7"),
        ({}, 500, "the stage needs 500 training pairs"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_refused(assistant, tmp_path, changes, n, what):
    changes = dict(changes)
    source = pairs_file(tmp_path / "p.jsonl", n=changes.pop("n", 80), **changes)

    said = refusal(assistant, tmp_path, source, n)

    assert what in said
    assert "where:" in said
    assert "fix:" in said


def test_a_pair_without_its_parts_is_named_with_its_line(assistant, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n{"prompt": "x"}\n')

    said = refusal(assistant, tmp_path, str(path))

    assert "the record has no 'chosen' and no 'rejected'" in said
    assert f"where: {path}:2" in said


def loaded(assistant, tmp_path, rows, **settings):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_pairs(
        given(assistant, tmp_path), str(path), given(assistant, tmp_path).model("sft"), None, **settings
    )


def test_pairs_that_are_too_long_are_dropped_or_cut_and_counted(assistant, tmp_path):
    """The context has 128 tokens of one byte."""
    rows = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(40)]
    rows += [
        {"prompt": "q", "chosen": "a" * 200, "rejected": "b"},
        {"prompt": "p" * 200, "chosen": "a", "rejected": "b"},
    ]
    rows += [{"prompt": "q", "chosen": "a" * 200, "rejected": "a" * 201}]

    dropped = loaded(assistant, tmp_path, rows, too_long="drop")
    cut = loaded(assistant, tmp_path, rows, too_long="truncate")

    assert {k: dropped.counts()[f"pairs_{k}"] for k in ("dropped", "truncated")} == {
        "dropped": 3,
        "truncated": 0,
    }
    assert {k: cut.counts()[f"pairs_{k}"] for k in ("dropped", "truncated")} == {"dropped": 2, "truncated": 1}
    (long,) = (p for p in (*cut.train, *cut.held_out) if len(p.chosen) > 100)
    assert len(long.prompt) + len(long.chosen) == 129
    assert "pairs_dropped" not in loaded(assistant, tmp_path, rows[:40]).counts()
    for too_long in ("drop", "truncate"):
        with pytest.raises(DataError, match="none of 1 pairs has an answer within the context"):
            loaded(assistant, tmp_path, rows[41:42], too_long=too_long)


def test_rated_answers_to_one_prompt_are_paired_and_the_rest_counted(assistant, tmp_path):
    rows = [
        {"prompt": f"q{i}", "completion": f"{j}{label}", "label": label}
        for i in range(40)
        for j, label in enumerate([True, False, True, True, False])
    ]

    pairs = loaded(assistant, tmp_path, rows)

    every = [*pairs.train, *pairs.held_out]
    assert len(every) == 80
    assert {p.answers for p in every} == {("0True", "1False"), ("2True", "4False")}
    assert pairs.counts()["answers_unpaired"] == 40
    with pytest.raises(DataError, match="3 rated answers have no counterpart"):
        loaded(assistant, tmp_path, [row for row in rows[:5] if row["label"]])


@pytest.mark.parametrize("name", ["p.json", "p.CSV", "p.jsonl.bz2", "some/p.jsonl.xz"])
def test_a_file_of_any_kind_is_a_file_and_no_stage(name):
    from scalelab.evals.inputs import ANSWER_PAIRS, Input

    assert Input.stage_or_file(name, ANSWER_PAIRS).is_path
    assert not Input.stage_or_file("pairs.v2", ANSWER_PAIRS).is_path


def test_no_prompt_is_on_both_sides(assistant, tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"q{i % 50}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = given(assistant, tmp_path).model("sft")

    pairs = load_pairs(given(assistant, tmp_path), str(path), start, None)

    sides = [{p.messages[0]["content"] for p in side} for side in (pairs.train, pairs.held_out)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {f"q{i}" for i in range(50)}
    assert pairs.held_out


def test_the_best_of_n_is_the_mean_over_all_choices_of_n():
    from itertools import combinations

    generator = np.random.default_rng(0)
    proxy, value = generator.normal(size=(3, 7)), generator.normal(size=(3, 7))

    for n in (1, 2, 3, 7):
        slow = [
            np.mean([v[max(c, key=lambda i: p[i])] for c in map(list, combinations(range(7), n))])
            for p, v in zip(proxy, value, strict=True)
        ]
        assert best_of(proxy, value, n) == pytest.approx(np.array(slow))


def test_a_base_model_cannot_be_preferred(done, sft):
    with pytest.raises(DataError) as refused:
        done(PAIR_STAGE | {"first": "base"})

    assert "'base' is a base model" in str(refused.value)
    assert "SFT" in str(refused.value)
