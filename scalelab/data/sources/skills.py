"""Skills: tasks made by program, with checkers that know what is right.

    notation      `name file | file name`                    what pretraining text can hold
    instruction   `please reverse name file` -> `file name`  what post-training asks for

Ten tasks on lists of words: copy, reverse, first, last, count, sort, add, take (answer in N
words), wrap and refuse (nothing was given). Each has three wordings, a notation of its own, and
a checker, so that every answer is right or wrong and nobody has to be asked. People prefer what
is right and then what is short, and so does `gold`:

    gold(answer) = 1 if right, else 0;  less 0.05 for each word

Held-out sets say how far a skill goes: as in training, words never seen there, longer lists, a
wording never seen. No question of theirs is one of training: questions of the training kind fall
on one side or the other by their hash. Training answers come in three styles, one bare and two
wordy, so that a preference for short answers has something to choose from.

As a source, `skills` hands out documents in notation, to be mixed with other text (mix.py), so
that a base model has something to elicit.

Units: gold in points, between 1 less its words and 0 less them.
Not here: conversations (chat.py), how models are judged (the evals room).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from scalelab.config import Count, Whole
from scalelab.data.base import HashFile, SkippedDocuments, TextDocument, TextSource
from scalelab.data.hashing import drawn_share

WORD_COST = 0.05
"""Points that each word of an answer costs."""
WORDS = (
    "name",
    "value",
    "list",
    "file",
    "text",
    "line",
    "path",
    "type",
    "data",
    "size",
    "time",
    "code",
    "string",
    "key",
    "test",
    "error",
    "class",
    "object",
    "module",
    "result",
    "index",
    "count",
    "item",
    "message",
)
"""Words of training lists. They are common in program text, so small vocabularies know them."""
UNSEEN = ("host", "mode", "state", "level", "group", "token", "field", "order")
"""Words of the held-out set `words`."""
SPLITS = ("same", "words", "longer", "wording")
"""Test sets: as in training; unseen words; longer lists; an unseen wording."""
HELD_OUT = 0.1
"""Share of the questions of the training kind that are kept for the test set `same`."""
STYLES = ("{}", "the answer is {} .", "ok , i say {} now .")
NOTHING = "nothing given"

Words = tuple[str, ...]


@dataclass(frozen=True)
class SkillTask:
    """One instruction and what is right."""

    skill: str
    question: str
    answer: str
    """A right answer; where several are right, one of them."""
    words: Words
    """The list that it is about."""
    number: int = 0


@dataclass(frozen=True)
class Skill:
    """One kind of task."""

    wordings: tuple[str, str, str, str]
    """Three of training, then the one that is held out. {w} is the list, {n} a number."""
    mark: str
    """Its sign in notation: `list mark answer`."""
    answer: Callable[[Words, int], Words]
    accepts: Callable[[Words, int, Words], bool] | None = None
    """Whether an answer is right, where more than one is."""


def _takes(words: Words, number: int, answer: Words) -> bool:
    return len(answer) == number and set(answer) <= set(words)


SKILLS = {
    "copy": Skill(("please repeat {w}", "copy {w}", "write {w} again", "echo {w}"), "=", lambda w, n: w),
    "reverse": Skill(
        ("please reverse {w}", "turn {w} around", "write {w} backwards", "flip {w}"),
        "|",
        lambda w, n: w[::-1],
    ),
    "first": Skill(
        ("give the first of {w}", "what comes first in {w}", "the head of {w}", "begin of {w}"),
        "^",
        lambda w, n: w[:1],
    ),
    "last": Skill(
        ("give the last of {w}", "what comes last in {w}", "the tail of {w}", "end of {w}"),
        "$",
        lambda w, n: w[-1:],
    ),
    "count": Skill(
        ("how many words in {w}", "count {w}", "the length of {w}", "number of words in {w}"),
        "#",
        lambda w, n: (str(len(w)),),
    ),
    "sort": Skill(
        ("please sort {w}", "put {w} in order", "order {w} by letter", "arrange {w}"),
        "<",
        lambda w, n: tuple(sorted(w)),
    ),
    "add": Skill(
        ("add {w}", "what is the sum of {w}", "sum {w}", "total of {w}"),
        "+",
        lambda w, n: (str(sum(map(int, w))),),
    ),
    "take": Skill(
        ("describe {w} in {n} words", "use {n} words of {w}", "name {n} of {w}", "pick {n} words from {w}"),
        "%",
        lambda w, n: w[:n],
        _takes,
    ),
    "wrap": Skill(
        ("wrap {w} in brackets", "put brackets around {w}", "bracket {w}", "enclose {w}"),
        "&",
        lambda w, n: ("[", *w, "]"),
    ),
    "refuse": Skill(
        ("please repeat", "turn around", "count", "echo"), "!", lambda w, n: tuple(NOTHING.split())
    ),
}


def tasks(n: int, *, split: str = "train", seed: int | str = 0) -> list[SkillTask]:
    """Instructions of one split, the same for the same seed on every machine.

    Args:
        n: How many.
        split: "train", or one of SPLITS.
        seed: Decides which.
    """
    draw = _Draw(f"{split}-{seed}")
    return [_task(draw, split) for _ in range(n)]


def _task(draw: "_Draw", split: str) -> SkillTask:
    while True:
        skill = draw.choice(tuple(SKILLS))
        words, number = _list(draw, skill, split)
        wording = SKILLS[skill].wordings[3 if split == "wording" else draw.below(3)]
        question = wording.format(w=" ".join(words), n=number)
        if _belongs(skill, question, split):
            break
    return SkillTask(skill, question, " ".join(SKILLS[skill].answer(words, number)), words, number)


def _belongs(skill: str, question: str, split: str) -> bool:
    """Whether a question may stand in a split. `refuse` has three questions, all of training."""
    if split not in {"train", "same"}:
        return skill != "refuse" or split == "wording"
    is_held_out = drawn_share(f"question {question}", 0) < HELD_OUT
    return is_held_out == (split == "same") if skill != "refuse" else split == "train"


def _list(draw: "_Draw", skill: str, split: str) -> tuple[Words, int]:
    if skill == "refuse":
        return (), 0
    if skill == "add":
        low, high = (6, 9) if split in {"words", "longer"} else (1, 5)
        return tuple(str(low + draw.below(high - low + 1)) for _ in range(2)), 0
    n = 5 + draw.below(2) if split == "longer" else 2 + draw.below(3)
    pool = UNSEEN if split == "words" else WORDS
    return tuple(draw.choice(pool) for _ in range(n)), 1 + draw.below(n)


def styles(wanted: list[SkillTask], *, seed: int | str = 0) -> list[str]:
    """A right answer to each task in one of STYLES, as people with different manners write."""
    draw = _Draw(f"styles-{seed}")
    return [draw.choice(STYLES).format(task.answer) for task in wanted]


def unstyled(answer: str) -> str:
    """An answer without the wordy styles around it."""
    answer = answer.strip()
    for style in STYLES[1:]:
        before, after = style.split("{}")
        if answer.startswith(before) and answer.endswith(after) and len(answer) > len(style) - 2:
            return answer[len(before) : -len(after)].strip()
    return answer


def is_right(task: SkillTask, answer: str) -> bool:
    """Whether an answer solves the task, in whatever style."""
    said = tuple(unstyled(answer).split(" "))
    skill = SKILLS[task.skill]
    if skill.accepts is not None:
        return skill.accepts(task.words, task.number, said)
    return said == skill.answer(task.words, task.number)


def gold(task: SkillTask, answer: str) -> float:
    """What a person who knows would give: a point for being right, less the words' cost."""
    return float(is_right(task, answer)) - WORD_COST * len(answer.split())


class Skills(TextSource):
    """Documents in notation: one list and its answer a document."""

    kind: Literal["skills"] = "skills"
    """Names this source in SOURCES."""
    documents_wanted: Count = 20_000
    """Documents, both sides of the split together."""
    seed: Whole = 0
    """Decides which."""

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the settings, and the documents that they lead to now."""
        del hash_file
        some = "\n".join(d.text for d in self._some(200))
        said = f"{self.model_dump_json()}\n{some}"
        return hashlib.sha256(said.encode()).hexdigest()

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """Document after document."""
        del skips
        yield from self._some(self.documents_wanted)

    def _some(self, n: int) -> Iterator[TextDocument]:
        draw = _Draw(f"notation-{self.seed}")
        for i in range(n):
            skill = draw.choice(tuple(SKILLS))
            words, number = _list(draw, skill, "train")
            yield TextDocument(f"skills:{i}", notation(skill, words, number))


def notation(skill: str, words: Words, number: int, *, with_answer: bool = True) -> str:
    """A task in notation: ` list mark [number] answer`.

    Args:
        skill: Name of the skill.
        words: Words of the list.
        number: Number that the skill takes, where it takes one.
        with_answer: Whether the answer follows.
    """
    said = [*words, SKILLS[skill].mark, *([str(number)] if skill == "take" else [])]
    answer = SKILLS[skill].answer(words, number) if with_answer else ()
    return " " + " ".join((*said, *answer))


class _Draw:
    """Draws that are the same in every version of Python: they use nothing but random()."""

    def __init__(self, seed: str):
        self._random = Random(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def choice(self, among: tuple[str, ...]) -> str:
        return among[self.below(len(among))]
