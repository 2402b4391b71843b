"""Errors in the values of a file, in words: place, problem and fix of each, all of a file together.

    ValidationError of pydantic -> one ConfigError

Not here: what a value may be (config.py and the configs), how YAML is read (yaml_builder.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from scalelab.errors import ConfigError
from scalelab.registry import did_you_mean
from scalelab.yaml_builder import BareWord, Place, shortened
from scalelab.yaml_document import YamlDocument

MOST_SHOWN = 20
"""Most errors of one file that are listed."""
LONGEST = 400
"""Most characters of one problem."""


class ValueAtKey(ValueError):
    """A problem that a check of a whole config finds, with the key that it is about and its fix.

    Args:
        problem: What is wrong.
        key: Path of the key below the config that is checked.
        fix: What to change.
    """

    def __init__(self, problem: str, key: Place, fix: str):
        self.key, self.fix = key, fix
        super().__init__(problem)


def refusal(error: ValidationError, document: YamlDocument, model: type[BaseModel]) -> ConfigError:
    """Return the refusal of a document that lists its errors.

    Args:
        error: Errors of the validation.
        document: Contents of the file.
        model: Config that the file was read as.
    """
    wrong = [_explain(e, document, model) for e in _causes(error.errors())]
    wrong.sort(key=lambda w: w.problem.endswith("is missing"))  # a typo explains a gap
    count = "1 mistake" if len(wrong) == 1 else f"{len(wrong)} mistakes"
    shown = wrong[:MOST_SHOWN]
    places = [f"{w.place}: {w.path}: {w.problem}" for w in shown]
    if len(wrong) == 1 and _located(error.errors()[0]) is not None:
        places = [f"{wrong[0].place}: {wrong[0].path}"]  # a long sentence is not repeated
    if len(wrong) > len(shown):
        places.append(f"and {len(wrong) - len(shown)} more")
    return ConfigError(
        f"{count} in {document.name}: {wrong[0].problem}"
        + (" (and others, below)" if len(wrong) > 1 else ""),
        where="\n         ".join(places),
        fix="; ".join(dict.fromkeys(w.fix for w in shown)),
    )


def arithmetic_reason(error: ArithmeticError | ValueError) -> str:
    """Return why numbers of a config lead to no result, in words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] != "value_error":
            text = f"{text[0].lower()}{text[1:]}, got {shortened(first['input'])}"
        return ": ".join((*map(str, first["loc"]), text))
    if isinstance(error, OverflowError):
        return "a result is too large for a number"
    return "a division by zero" if isinstance(error, ZeroDivisionError) else str(error)


@dataclass(frozen=True)
class _ConfigProblem:
    place: str
    path: str
    problem: str
    fix: str


def _causes(errors: Sequence[Any]) -> list[Any]:
    """Return the errors without those that follow from others: a list is "too short" without its bad items."""
    return [
        e
        for e in errors
        if e["type"] != "too_short"
        or not any(len(o["loc"]) > len(e["loc"]) and o["loc"][: len(e["loc"])] == e["loc"] for o in errors)
    ]


def _explain(error: Any, document: YamlDocument, model: type[BaseModel]) -> _ConfigProblem:
    """Return one error in words that a person can act on."""
    located = _located(error)
    path: Place = (*error["loc"], *(located.key if located else ()))
    owner, value = _owner(model, path, document.data), error["input"]
    place, dotted = document.place(path), shortened(".".join(map(str, path)), quotes=False) or "(file)"

    def problem(text: str, fix: str) -> _ConfigProblem:
        return _ConfigProblem(place, dotted, text if len(text) <= LONGEST else f"{text[:LONGEST]} ...", fix)

    if located is not None:
        return problem(str(located), located.fix)
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(path[-1], list(owner))
        fix = f"keys here: {', '.join(owner)}" if owner else "remove it"
        return problem(f"unknown key {shortened(path[-1])}{hint}", fix)
    if error["type"] == "missing":
        return problem(f"{path[-1]!r} is missing", f"add `{path[-1]}: ...`")
    if error["type"] in {"float_type", "int_type"} and isinstance(value, str):
        return problem(f"{shortened(value)} is text, not a number", _number_fix(value))
    if error["type"] == "string_type" and isinstance(value, bool | int | float):
        written = document.written.get(path, str(value))
        kind = "true or false" if isinstance(value, bool) else "a number"
        return problem(f"{shortened(written, quotes=False)} is {kind}, not text", f'quote it: "{written}"')
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] != "value_error":
        text = f"{text[0].lower()}{text[1:]}, got {shortened(value)}"
    fix = f'quote it: "{value}"' if isinstance(value, BareWord) else f"change {dotted}"
    return problem(text, fix if path else "change the file")


def _located(error: Any) -> ValueAtKey | None:
    """Return the problem with a key of its own that an error of the validation is from, if it is from one."""
    cause = error.get("ctx", {}).get("error")
    return cause if isinstance(cause, ValueAtKey) else None


def _number_fix(text: str) -> str:
    """Return the fix of text where a number is expected."""
    if isinstance(text, BareWord) and _is_number(text):  # 012: ten in YAML 1.1, twelve in 1.2
        sign = "-" if text.startswith("-") else ""
        return f"write {sign}{text.lstrip('+-0_') or 0} without the leading zero"
    if _is_number(text) and not isinstance(text, BareWord):
        return f"write {text} without quotes"
    return "write a number, such as 3 or 1e12"


def _is_number(text: str) -> bool:
    """Return whether text would be a finite number without its quotes; `nan` and `inf` would still be text."""
    try:
        return text.isascii() and math.isfinite(float(text))
    except ValueError:
        return False


def _owner(model: type[BaseModel] | None, path: Place, data: Any) -> Sequence[str]:
    """Names of the fields that may stand beside the last part of `path`."""
    for part in path[:-1]:
        info = model.model_fields.get(str(part)) if model else None
        kinds = (info.annotation, *get_args(info.annotation)) if info else ()
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        try:
            data = data[part]
        except (LookupError, TypeError):
            data = None
        if model is None and isinstance(data, dict):
            model = _plugin_called(data.get("kind"), info)
    return list(model.model_fields) if model else []


def _plugin_called(name: object, info: Any) -> type[BaseModel] | None:
    """The config that a plug-in field holds, from the registry its validator was made with."""
    kinds = get_args(info.annotation) if info else ()  # of "a plug-in or nothing" too
    beside = [extra for kind in kinds for extra in getattr(kind, "__metadata__", ())]
    for extra in (*info.metadata, *beside) if info else ():
        choice = getattr(extra, "func", None)
        if hasattr(choice, "member") and choice.has(name):
            return choice.member(name)
    return None
