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
from scalelab.laws.observations import Observations
from scalelab.records.external_table import write_columns
from scalelab.registry import did_you_mean
from scalelab.report.document import Block, Code, Document, Facts, Heading, Paragraph
from scalelab.report.render.terminal import render_terminal
from scalelab.screen import echo
from scalelab.study.simulate.designs import DESIGNS, NOISES, Noise, SimulatedDesign
from scalelab.study.simulate.simulation import KnownLaw, simulate, table_columns
from scalelab.units import sci, si

REACH = 10.0  # the true optimum is printed at this multiple of the largest budget, where `fit` forecasts


def run(args: argparse.Namespace) -> int:
    """Write the table, print the true optimum, and return the exit status."""
    return run_simulate(args)


def run_simulate(args: argparse.Namespace) -> int:
    """Draw, write, print the truth. Returns the exit code."""
    out: Path = args.out
    _refuse_to_replace(out)
    known = KnownLaw.of(
        args.law,
        {name: _number(text, "--constants") for name, text in _pairs(args.constants)},
        epochs=args.epochs,
        batch_tokens=args.batch_tokens,
    )
    design = _design(args)
    noise = tuple(_noise(text) for text in args.noise)
    runs = simulate(known, design=design, noise=noise, seed=args.seed)
    write_columns(table_columns(runs, known), out)
    echo(render_terminal(_document(known, args.design, design, args.noise, args.seed, runs, out)))
    return 0


def _document(
    known: KnownLaw,
    name: str,
    design: SimulatedDesign,
    noise: list[str],
    seed: int,
    runs: Observations,
    out: Path,
) -> Document:
    target = REACH * runs.largest_budget
    settings = ", ".join(f"{field.name}={_short(design, field.name)}" for field in fields(design))
    blocks: list[Block] = [
        Heading(f"{len(runs)} runs (simulated)"),
        Facts(
            [
                ("law", f"{type(known.law).__name__}: {known.law.formula}"),
                ("constants", ", ".join(f"{name}={value:.8g}" for name, value in known.params.items())),
                ("design", f"{name}: {settings}"),
                ("noise", f"{', '.join(noise) or 'none'}; seed {seed}"),
                ("written", str(out)),
            ]
        ),
    ]
    best = known.truth(target)
    if best is None:
        blocks.append(Paragraph("True optimum: none; this law has no best size along C = 6 N D."))
    else:
        size, tokens, loss = float(best.N), float(best.D), float(best.L)
        blocks += [
            Heading(f"True optimum (simulated) at {sci(target)} FLOPs, {REACH:g}x the largest budget"),
            Facts(
                [
                    ("N*", f"{size:.6g} parameters ({si(size)})"),
                    ("D*", f"{tokens:.6g} tokens ({si(tokens)})"),
                    ("D*/N*", f"{tokens / size:.6g} tokens per parameter"),
                    ("L*", f"{loss:.6g} nats per token"),
                    ("a", f"{known.exponent(target):.6g} of N* ~ C^a at that compute"),
                ]
            ),
        ]
    asked = f"{target:.6g}".replace("e+", "e")
    blocks.append(Paragraph(["Next: ", Code(f"scalelab fit {out} --target {asked}")]))
    return Document("Simulated runs", blocks)


def _short(design: SimulatedDesign, name: str) -> str:
    value = getattr(design, name)
    if isinstance(value, tuple):
        return f"{sci(min(value))}..{sci(max(value))} ({len(value)})"
    return f"{value:g}"


def _design(args: argparse.Namespace) -> SimulatedDesign:
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
        raise ConfigError(f"{text!r} is not a number", where=where, fix="write it like 0.003 or 1e18")
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
