"""Verdicts that are kept: given once, whatever happens between them."""

import json

import pytest

from scalelab.errors import DataError
from scalelab.evals.conversations.base import Prompt
from scalelab.evals.preference.judgement_cache import CachedJudge
from scalelab.evals.preference.judges.base import JudgeSession
from scalelab.evals.preference.judges.gold import GoldJudge
from scalelab.evals.preference.judges.person import PersonJudge

PROMPTS = [Prompt(({"role": "user", "content": f"question {i}"},)) for i in range(6)]
LONG, SHORT = ["a longer answer"] * 6, ["short"] * 6


class Sitter:
    """Somebody who prefers the longer answer, and leaves after so many."""

    def __init__(self, leaves_after=100):
        self.left, self.asked = leaves_after, []

    def decide(self, prompts, first, second, before):
        verdicts = []
        for i, (prompt, one, two) in enumerate(zip(prompts, first, second, strict=True)):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append((before + i, prompt.messages[0]["content"]))
            verdicts.append(None if "3" in self.asked[-1][1] else float(len(one) > len(two)))
        return verdicts


def kept(path, sitter, at_once=1):
    return CachedJudge(lambda: JudgeSession(sitter.decide, may_pass=True), path, at_once)


def test_who_left_in_the_middle_is_asked_for_the_rest_only(tmp_path):
    early, later = Sitter(leaves_after=4), Sitter()
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "v.jsonl", early)(PROMPTS, LONG, SHORT)

    session = kept(tmp_path / "v.jsonl", later)
    verdicts = session(PROMPTS, LONG, SHORT)

    assert verdicts == [1.0, 1.0, 1.0, None, 1.0, 1.0]
    assert [place for place, _ in later.asked] == [4, 5]
    assert (session.n, session.unreadable) == (6, 1)  # that one was passed over before


def test_the_answers_in_the_other_order_are_another_question(tmp_path):
    sitter = Sitter()
    session = kept(tmp_path / "v.jsonl", sitter)

    assert session(PROMPTS, LONG, SHORT)[0] == 1.0
    assert session(PROMPTS, SHORT, LONG)[0] == 0.0
    assert session(PROMPTS, LONG, SHORT)[0] == 1.0
    assert len(sitter.asked) == 12


def test_other_answers_are_judged_anew_at_their_own_places(tmp_path):
    sitter = Sitter()
    kept(tmp_path / "v.jsonl", sitter, None)(PROMPTS, LONG, SHORT)
    changed = [*LONG[:2], "new", *LONG[3:5], "new too"]

    kept(tmp_path / "v.jsonl", sitter, None)(PROMPTS, changed, SHORT)

    assert sitter.asked[6:] == [(2, "question 2"), (5, "question 5")]


def test_a_torn_line_is_judged_again(tmp_path):
    path, sitter = tmp_path / "v.jsonl", Sitter()
    kept(path, sitter)(PROMPTS, LONG, SHORT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])

    assert kept(path, sitter)(PROMPTS, LONG, SHORT) == [1.0, 1.0, 1.0, None, 1.0, 1.0]

    assert len(sitter.asked) == 7
    assert path.read_bytes().splitlines()[-1] == whole.splitlines()[-1]
    assert kept(path, sitter).n_bad == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"verdict":1.0', '"verdict":0.0', 1),
        lambda text: text.replace('"verdict":1.0', '"verdict":0.5', 1),
        lambda text: "null\n" + text.partition("\n")[2],
        lambda text: "not json\n" + text.partition("\n")[2],
        lambda text: '{"key": "a", "verdict": 7}\n' + text.partition("\n")[2],
    ],
)
def test_a_damaged_line_is_skipped_counted_and_judged_again(tmp_path, damage):
    path, sitter = tmp_path / "v.jsonl", Sitter()
    kept(path, sitter)(PROMPTS, LONG, SHORT)
    path.write_text(damage(path.read_text()))

    session = kept(path, sitter)

    assert session.n_bad == 1
    assert session(PROMPTS, LONG, SHORT) == [1.0, 1.0, 1.0, None, 1.0, 1.0]
    assert len(sitter.asked) == 7


def test_verdicts_from_before_the_checksums_stand(tmp_path):
    path, sitter = tmp_path / "v.jsonl", Sitter()
    kept(path, sitter)(PROMPTS, LONG, SHORT)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    old = [{name: value for name, value in row.items() if name != "crc"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))

    session = kept(path, sitter)

    assert session(PROMPTS, LONG, SHORT) == [1.0, 1.0, 1.0, None, 1.0, 1.0]
    assert (session.n_bad, len(sitter.asked)) == (0, 6)


def test_a_person_s_are_written_one_by_one(tmp_path):
    path, n_lines = tmp_path / "v.jsonl", []

    def decide(prompts, first, second, before):
        n_lines.append(len(path.read_text().splitlines()) if path.exists() else 0)
        return [1.0] * len(prompts)

    CachedJudge(lambda: JudgeSession(decide), path, PersonJudge().at_once())(PROMPTS, LONG, SHORT)
    assert n_lines == [0, 1, 2, 3, 4, 5]
    assert [json.loads(line)["verdict"] for line in path.read_text().splitlines()] == [1.0] * 6

    CachedJudge(lambda: JudgeSession(decide), path, GoldJudge().at_once())(PROMPTS, SHORT, LONG)
    assert n_lines[6:] == [6]


def test_who_cannot_be_read_is_refused_however_often_the_command_is_repeated(tmp_path):
    def session():
        return JudgeSession(lambda prompts, first, second, before: [None] * len(prompts))

    def judge(answer):
        return CachedJudge(session, tmp_path / "v.jsonl", None)(PROMPTS, [answer] * 6, SHORT)

    for answer in ("one", "two", "three"):
        assert judge(answer) == [None] * 6  # 18 of 18 may be chance
    with pytest.raises(DataError, match="24 of the judge's 24 verdicts cannot be read"):
        judge("four")


def test_what_the_judge_lacks_is_said_before_any_model_has_answered(tmp_path):
    with pytest.raises(DataError, match="needs an interactive terminal"):
        CachedJudge(lambda: PersonJudge().open_session(None, {}, 0), tmp_path / "v.jsonl", 1)


def test_nobody_is_called_where_all_is_kept(tmp_path):
    kept(tmp_path / "v.jsonl", Sitter())(PROMPTS, LONG, SHORT)

    def nobody():
        raise AssertionError("the judge was called")

    session = CachedJudge(nobody, tmp_path / "v.jsonl", 1)
    assert session(PROMPTS, LONG, SHORT) == [1.0, 1.0, 1.0, None, 1.0, 1.0]
