"""Requests for a plan with one or several odd numbers: priced, or refused by the name of the flag.

    cases(n, seed)

A reader of a case gets the request as `values`; there is no file. Its answer is {"seconds", "flops",
"devices", "peak", "mfu", ...} of the priced plan, all of which are checked to be finite.
"""

import json
import math
import random
from collections.abc import Iterator
from typing import Any

from fuzzing.check import Case

NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 17, 1000, 16383, 16384, 10**6, 10**9, 10**12, 10**30, 10**400, 0.5, 1.5, -0.0),
    *(1e-300, 1e-9, 1e3, 1e6, 7e9, 70e9, 405e9, 1e12, 1.5e13, 1e15, 1e20, 1e25, 1e30, 1e100, 1e300),
    *(math.inf, -math.inf, math.nan, True, False),
)
TEXTS = ("", " ", "x", "1e9", "7B", "nan", "\x1b[31m", "\ud800", "../x", "é", "x" * 5000, "h100 ", "H100")
CHOICES: dict[str, tuple[Any, ...]] = {
    "params": NUMBERS,
    "tokens": NUMBERS,
    "gpus": NUMBERS,
    "mfu": (*NUMBERS, 0.1, 0.4, 0.999, 1.0),
    "mfu_inference": (*NUMBERS, 0.3),
    "demand": NUMBERS,
    "gpu": (*TEXTS, "h100", "a100", "rtx4090", None),
    "region": (*TEXTS, "france"),
    "layout": (
        *TEXTS,
        "shard=8",
        "shard=8,tensor=2",
        "shard=0",
        "shard=-1",
        "shard=8,shard=8",
        "=",
        "tensor=1e3",
    ),
    "trials": NUMBERS,
    "seed": NUMBERS,
    "name": TEXTS,
    "param_count": (*TEXTS, "matmul", "total"),
    "budget": (*NUMBERS, *TEXTS, "1e21", "300 PF-days", "1e21 FLOPs", "-1 PF-days", "nan PF-days", "1e999"),
    "token_price": NUMBERS,
    "price": (*NUMBERS, *TEXTS, "2-3.5", "3.5-2", "$2", "2 - 3", "-1", "1e400", "2-nan"),
    "goodput": (*NUMBERS, 0.9),
    "restart_reserve": (*NUMBERS, 0.1),
    "staff": NUMBERS,
    "salary": NUMBERS,
    "staff_months": NUMBERS,
    "tokens_available": NUMBERS,
    "loss": NUMBERS,
    "days": NUMBERS,
    "unique_tokens": NUMBERS,
    "override": TEXTS,
}
"""Values of each field of a request, right and wrong."""
PLAIN = {"params": 7e9, "tokens": 1.4e11, "gpu": "h100", "gpus": 64, "mfu": 0.4}


def cases(n: int, seed: int) -> Iterator[Case]:
    """Yield requests that differ from a plain one in one to three fields."""
    draw = random.Random(f"plan {seed}")
    yield Case("plan: plain", "request", settings={"values": PLAIN}, expected=_adds_up, must="read")
    for i in range(n):
        values = dict(PLAIN)
        for name in draw.sample(list(CHOICES), draw.choice((1, 1, 2, 3))):
            values[name] = draw.choice(CHOICES[name])
            if values[name] is None or draw.random() < 0.1:
                del values[name]
        shown = {k: f"{v!r:.40}" for k, v in values.items() if v != PLAIN.get(k)}
        yield Case(f"plan-{seed}-{i}: {shown}", "request", settings={"values": values}, expected=_adds_up)


def _adds_up(answer: dict[str, Any]) -> str | None:
    """Return what is wrong with a price: a number that is none, or a time that contradicts its MFU."""
    for path, value in numbers(answer["json"]):
        if not math.isfinite(value):
            return f"{path} is {value}"
    for word in answer["text"].split():
        if word.strip("[],()$~").lower() in ("nan", "inf", "-inf"):
            return f"the text shows {word}"
    json.dumps(answer["json"], allow_nan=False)
    return None


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every float below a value, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{i}]")
    elif isinstance(value, float):
        yield path, value
