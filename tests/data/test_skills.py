"""The skills: every right answer is accepted, every wrong one is not, sets are what they say."""

import pytest

from scalelab.data.base import SkippedDocuments
from scalelab.data.sources.mix import Mix
from scalelab.data.sources.skills import (
    SKILLS,
    SPLITS,
    STYLES,
    UNSEEN,
    WORDS,
    Skills,
    SkillTask,
    gold,
    is_right,
    notation,
    styles,
    tasks,
    unstyled,
)
from scalelab.errors import ConfigError


@pytest.mark.parametrize("split", ["train", *SPLITS])
def test_every_right_answer_is_right_in_every_style(split):
    for task in tasks(400, split=split):
        for style in STYLES:
            assert is_right(task, style.format(task.answer)), (task, style)


@pytest.mark.parametrize(
    ("split", "without"), [("train", set()), ("wording", set()), ("same", {"refuse"}), ("words", {"refuse"})]
)
def test_every_skill_is_asked_where_it_can_be_held_out(split, without):
    assert {task.skill for task in tasks(600, split=split)} == set(SKILLS) - without


def test_no_question_of_a_test_set_is_one_of_training():
    trained = {t.question for seed in range(3) for t in tasks(8000, seed=seed)}

    for split in SPLITS:
        assert not trained & {t.question for t in tasks(600, split=split)}, split


@pytest.mark.parametrize(
    ("skill", "answer"),
    [
        ("copy", "b a"),
        ("reverse", "a b"),
        ("first", "b"),
        ("last", "a"),
        ("count", "3"),
        ("sort", "b a"),
        ("wrap", "a b"),
        ("take", "a b"),
        ("take", ""),
        ("take", "c"),
    ],
)
def test_a_wrong_answer_is_wrong(skill, answer):
    task = SkillTask(skill, "?", "", ("a", "b"), 1)

    assert not is_right(task, answer)


def test_any_words_of_the_list_will_do_where_a_number_of_words_is_asked_for():
    task = SkillTask("take", "name 2 of a b c", "a b", ("a", "b", "c"), 2)

    assert is_right(task, "c a")
    assert not is_right(task, "a d")
    assert not is_right(task, "a")


def test_sums_are_sums():
    task = SkillTask("add", "add 3 4", "7", ("3", "4"))

    assert is_right(task, "the answer is 7 .")
    assert not is_right(task, "34")


def test_gold_prefers_right_and_then_short():
    task = SkillTask("copy", "copy a b", "a b", ("a", "b"))

    bare, wordy, wrong = (gold(task, a) for a in ("a b", "the answer is a b .", "b"))
    assert bare == pytest.approx(0.9)
    assert wordy == pytest.approx(0.7)
    assert wrong == pytest.approx(-0.05)


def test_styles_are_taken_off_only_whole():
    assert unstyled("the answer is x .") == "x"
    assert unstyled("the answer is x") == "the answer is x"
    assert unstyled(" ok , i say a b now . ") == "a b"


def test_held_out_sets_are_what_they_say():
    def lists(split):
        return [t.words for t in tasks(300, split=split) if t.skill not in {"add", "refuse"}]

    assert all(set(words) <= set(WORDS) and len(words) <= 4 for words in lists("train"))
    assert all(set(words) <= set(UNSEEN) for words in lists("words"))
    assert all(len(words) >= 5 for words in lists("longer"))
    assert not set(UNSEEN) & set(WORDS)
    trained = {w.split("{")[0] for s in SKILLS.values() for w in s.wordings[:3]}
    for task in tasks(300, split="wording"):
        held_out = SKILLS[task.skill].wordings[3]
        assert task.question.startswith(held_out.split("{")[0])
        assert held_out.split("{")[0] not in trained or task.skill in {"count", "refuse"}


def test_seeds_decide_the_tasks():
    assert tasks(50, seed="a") == tasks(50, seed="a")
    assert tasks(50, seed="a") != tasks(50, seed="b")
    assert styles(tasks(50), seed=1) != styles(tasks(50), seed=2)


def test_notation_holds_the_list_and_the_answer():
    assert notation("reverse", ("a", "b"), 0) == " a b | b a"
    assert notation("take", ("a", "b"), 1) == " a b % 1 a"
    assert notation("copy", ("a",), 0, with_answer=False) == " a ="


def test_the_source_gives_the_same_documents_again():
    source = Skills(documents_wanted=30)

    once, twice = (list(source.documents(SkippedDocuments())) for _ in range(2))
    assert once == twice
    assert len(once) == 30
    assert source.fingerprint(None) != Skills(documents_wanted=31).fingerprint(None)


def test_a_mixture_is_every_document_of_every_part(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    mix = Mix.model_validate(
        {
            "parts": [
                {"kind": "skills", "documents_wanted": 5},
                {"kind": "text", "paths": [str(tmp_path / "a.txt")]},
            ]
        }
    )

    names = [d.name for d in mix.documents(SkippedDocuments())]

    assert names == [*(f"0-skills/skills:{i}" for i in range(5)), "1-text/a.txt"]
    before = mix.fingerprint(lambda path: path.read_text())
    (tmp_path / "a.txt").write_text("other text")
    assert mix.fingerprint(lambda path: path.read_text()) != before


def test_tokens_cannot_be_mixed(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("parts: [skills, synthetic]\n")

    with pytest.raises(ConfigError) as refused:
        Mix.load(path)

    assert "'synthetic' is tokens already" in str(refused.value)
    assert f"where: {path}:1" in str(refused.value)
