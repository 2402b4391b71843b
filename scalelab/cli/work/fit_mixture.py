"""`scalelab fit` of runs on mixtures: a recommended mixture and the loss that it buys."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import is_table
from scalelab.data.corpus.shards import tokens_of_domains
from scalelab.errors import ConfigError
from scalelab.files import runs_directory, write_json
from scalelab.laws.mixture.recommendation import MixtureRequest
from scalelab.records.mixture_runs import is_mixture_sweep, read_mixture_sweep
from scalelab.records.mixture_table import is_mixture_table, read_mixture_table
from scalelab.report.mixture.document import mixture_document
from scalelab.report.mixture.page import write_mixture_report
from scalelab.report.render.terminal import render_terminal
from scalelab.screen import echo
from scalelab.study.mixture import study_mixture

LAW = "mixture"
"""Name under which --law asks for mixture laws."""


def is_mixture(args: argparse.Namespace) -> bool:
    """Return whether mixture laws are asked for: by --law mixture, or by a table of shares and losses of domains."""
    if args.law:
        if LAW in args.law and len(args.law) > 1:
            raise ConfigError(
                "--law mixture cannot be combined with other laws",
                where="scalelab fit",
                fix="fit it by itself: --law mixture",
            )
        return args.law == [LAW]
    if args.source and is_table(args.source):
        return is_mixture_table(Path(args.source))
    return is_mixture_sweep(runs_directory(), args.source)


def fit_mixture(args: argparse.Namespace) -> int:
    """Fit, print the recommendation, write the report, and return the exit status."""
    natural, unique = _pairs(args.natural, "--natural"), _pairs(args.unique_tokens, "--unique-tokens")
    if args.source and is_table(args.source):
        name, table = Path(args.source).stem, read_mixture_table(Path(args.source))
    else:
        name, table, corpus = read_mixture_sweep(runs_directory(), args.source)
        tokens = tokens_of_domains(corpus)
        natural, unique = natural or tokens, unique or tokens
    request = MixtureRequest(
        natural=natural,
        unique_tokens=unique,
        n_tokens=args.train_tokens,
        replicates=min(args.replicates, 400),
    )
    study = study_mixture(table, request)
    echo(render_terminal(mixture_document(study, name)))
    page = write_mixture_report(study, name, args.out or Path("reports") / f"{name}-mixture")
    if args.json is not None:
        write_json(args.json, study.to_json())
    echo(f"\nreport: {page}")
    return 0


def _pairs(text: str, flag: str) -> dict[str, float] | None:
    """Return numbers by domain of DOMAIN=NUMBER,...; None for an empty text."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not (equals and name and 0 <= value < float("inf")) or name in found:
            raise ConfigError(
                f"{flag} holds {part[:60]!r}",
                where=f"scalelab fit {flag}",
                fix=f"write a number for each domain once: {flag} web=0.6,code=0.4",
            )
        found[name] = value
    return found or None
