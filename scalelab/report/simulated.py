"""What `scalelab simulate` does: a table of runs whose answer is known, and the answer.

The table is written for `scalelab fit`, which labels its evidence as simulated because every
row says so. The truth stands on the screen only, so that a fit cannot look at it.
"""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.errors import ConfigError
from scalelab.laws.columns import UNIQUE_TOKENS
from scalelab.laws.designs import DESIGNS, NOISES, Design, Noise
from scalelab.laws.observations import Observations
from scalelab.laws.simulate import Known, simulate
from scalelab.registry import did_you_mean
from scalelab.track.tablefile import write_columns
from scalelab.units import sci, si

REACH = 10.0  # the truth is told at this multiple of the most compute: where `fit` will forecast


def run_simulate(args: argparse.Namespace) -> int:
    """Draw, write, print the truth. Returns the exit code."""
    out: Path = args.out
    _refuse_to_replace(out)
    known = Known.of(
        args.law,
        {name: _number(text, "--constants") for name, text in _pairs(args.constants)},
        epochs=args.epochs,
        batch_tokens=args.batch_tokens,
    )
    design = _design(args)
    noise = tuple(_noise(text) for text in args.noise)
    runs = simulate(known, design=design, noise=noise, seed=args.seed)
    write_columns(_columns(runs, known), out)
    print(_told(known, design, args.noise, args.seed, runs, out))
    return 0


def _columns(runs: Observations, known: Known) -> dict[str, Any]:
    columns = {
        "n_params": runs.N,
        "n_tokens": runs.D,
        "flops": runs.C,
        "flops_planned": runs.flops_planned,
        "loss": runs.L,
        "seed": runs.seed,
        "run": runs.run,
        "status": np.full(len(runs), "simulated"),
    }
    named = dict(runs.columns)
    if known.epochs == 1:
        del named[UNIQUE_TOKENS.name]  # every token is new
    return columns | named


def _told(
    known: Known, design: Design, noise: list[str], seed: int, runs: Observations, out: Path
) -> str:
    target = REACH * runs.largest_budget
    shown = ", ".join(f"{field.name}={_short(design, field.name)}" for field in fields(design))
    lines = [
        f"{len(runs)} runs [simulated] from {type(known.law).__name__}: {known.law.formula}",
        "  " + ", ".join(f"{name}={value:.8g}" for name, value in known.params.items()),
        f"  {type(design).__name__}: {shown}",
        f"  noise: {', '.join(noise) or 'none'}; seed {seed}",
    ]
    best = known.truth(target)
    if best is None:
        lines.append("The truth [simulated]: this law has no best size along C = 6 N D")
    else:
        size, tokens, loss = float(best.N), float(best.D), float(best.L)
        lines += [
            f"The truth [simulated] at {sci(target)} FLOPs, {REACH:g}x the most compute here",
            f"  N*     {size:.6g} parameters ({si(size)})",
            f"  D*     {tokens:.6g} tokens ({si(tokens)})",
            f"  D*/N*  {tokens / size:.6g} tokens per parameter",
            f"  L*     {loss:.6g} nats per token",
            f"  a      {known.exponent(target):.6g} of N* ~ C^a at that compute",
        ]
    asked = f"{target:.6g}".replace("e+", "e")
    return "\n".join([*lines, f"written: {out}", f"Next: scalelab fit {out} --target {asked}"])


def _short(design: Design, name: str) -> str:
    value = getattr(design, name)
    if isinstance(value, tuple):
        return f"{sci(min(value))}..{sci(max(value))} ({len(value)})"
    return f"{value:g}"


def _design(args: argparse.Namespace) -> Design:
    """The design that --design, --budgets, --sizes and --set describe."""
    kind = DESIGNS[args.design]
    asked = {"budgets": args.budgets, "sizes": args.sizes}
    asked = {name: text for name, text in asked.items() if text is not None}
    asked |= dict(pair for text in args.set for pair in _pairs(text, "--set"))
    known = {field.name: field for field in fields(kind)}
    settings: dict[str, Any] = {}
    for name, text in asked.items():
        if name not in known:
            raise ConfigError(
                f"a design {args.design} has no {name!r}{did_you_mean(name, known)}",
                where="the design of a simulation",
                fix=f"set one of: {', '.join(known)}",
            )
        default = known[name].default
        if isinstance(default, tuple):
            settings[name] = _numbers(text, name)
            continue
        settings[name] = _number(text, name)
        if isinstance(default, int):
            if settings[name] != int(settings[name]):
                fix = "give a whole number"
                raise ConfigError(f"{name} = {text}", where="the design of a simulation", fix=fix)
            settings[name] = int(settings[name])
    return kind(**settings)


def _noise(text: str) -> Noise:
    """`gaussian:0.003` as a noise."""
    kind, _, size = text.partition(":")
    if kind not in NOISES or not size:
        raise ConfigError(
            f"cannot read the noise {text!r}{did_you_mean(kind, NOISES)}",
            where="--noise",
            fix=f"write KIND:SIZE with one of {', '.join(NOISES)}, such as gaussian:0.003",
        )
    return NOISES[kind](_number(size, "--noise"))


def _numbers(text: str, where: str) -> tuple[float, ...]:
    """`1e18:1e21:7` (evenly in the logarithm) or `1e18,1e19` as numbers."""
    if ":" not in text:
        return tuple(_number(part, where) for part in text.split(","))
    parts = [_number(part, where) for part in text.split(":")]
    if len(parts) != 3 or min(parts) <= 0 or not 1 <= parts[2] <= 10_000 or parts[2] % 1:
        raise ConfigError(
            f"cannot read the numbers {text!r}",
            where=where,
            fix="write FIRST:LAST:HOW_MANY, such as 1e18:1e21:7, or a list: 1e18,1e19",
        )
    return tuple(map(float, np.geomspace(parts[0], parts[1], int(parts[2]))))


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(
            f"{text!r} is not a number", where=where, fix="write it like 0.003 or 1e18"
        )
    return value


def _pairs(text: str, where: str = "--constants") -> list[tuple[str, str]]:
    """`E=1.8,A=480` as pairs; a comma belongs to the value unless a new name follows."""
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", text) if part]
    if bad := ["".join(part) for part in parts if not (part[0].strip() and part[2].strip())]:
        raise ConfigError(
            f"cannot read {bad[0]!r}", where=where, fix=f"write NAME=VALUE: {where} E=1.8,A=480"
        )
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _refuse_to_replace(out: Path) -> None:
    """A simulated table may be drawn anew; nothing else is written over."""
    if not out.exists():
        return
    with open(out, "rb") if out.is_file() else open("/dev/null", "rb") as file:
        if b"simulated" in file.read(4096):
            return
    raise ConfigError(
        "something that was not simulated has this name already",
        where=str(out),
        fix="choose another name for the table",
    )
