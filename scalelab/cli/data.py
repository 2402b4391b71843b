"""`scalelab data`: curate pages into training text, or prepare the corpus of a sweep file."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.cli.arguments import (
    add_dry_run,
    add_file,
    add_json,
    add_out,
    add_set,
    examples,
    read_file_argument,
)
from scalelab.screen import echo

if TYPE_CHECKING:
    from scalelab.data.corpus.shards import Corpus

DESCRIPTION = (
    "Prepare the corpus of a sweep file: train the tokenizer, split training from validation, and write "
    "token shards. A corpus that is prepared already is only described. Or run a curation file: from pages "
    "of the web to documents and token shards, with a report of what each stage kept and rejected."
)
EXAMPLES = examples(
    "scalelab data sweeps/isoflop.yaml",
    "scalelab data sweeps/isoflop.yaml --set recipe.data.validation=0.01",
    "scalelab data sweeps/data/debian.yaml --dry-run",
    "scalelab data sweeps/data/debian.yaml --set 'executor={kind: slurm, gpus: 0}'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "sweep or curation")
    add_set(parser, "recipe.data.validation=0.01")
    add_dry_run(parser, "curate a sample of a few hundred pages and print what each stage kept")
    add_out(parser, "a curated corpus and its report", "curated/NAME")
    add_json(parser, "what each stage of a curation did")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus, print what it holds, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from scalelab.errors import ConfigError
    from scalelab.file_kinds import kind_of_path

    if kind_of_path(path) == "curation":
        return _curate(args, path)
    if given := [flag for flag in ("dry_run", "out", "json") if getattr(args, flag)]:
        raise ConfigError(
            f"--{given[0].replace('_', '-')} is for curation files, and {path} is none",
            where=f"scalelab data {path}",
            fix=f"leave --{given[0].replace('_', '-')} out, or name a curation file",
        )
    from scalelab.data.corpus import shards
    from scalelab.sweep.file import SweepFile

    _describe(shards.prepare(SweepFile.load(path, args.set).recipe.data))
    return 0


def _curate(args: argparse.Namespace, path: Path) -> int:
    """Run a curation file."""
    from scalelab.data.base import DataConfig
    from scalelab.data.corpus import shards
    from scalelab.data.curate.publish import check_place, publish
    from scalelab.data.curate.token_estimate import tokens_by_stage
    from scalelab.data.sources.curated import Curated
    from scalelab.files import write_json
    from scalelab.launch.curation import CurationRequest, run_curation
    from scalelab.report.curation.document import curation_document
    from scalelab.report.curation.page import curation_json, write_curation
    from scalelab.report.render.terminal import render_terminal

    config = CurationRequest.load(path, args.set)
    out = args.out or Path("curated") / config.name
    if not args.dry_run:
        check_place(out)  # before the work, not behind it
    with config.located():
        result = run_curation(config, sample=args.dry_run)
    if args.dry_run:
        if args.json is not None:
            write_json(args.json, curation_json(result, None))
        echo(render_terminal(curation_document(result).summary(), title=True))
        return 0
    publish(result, out)
    corpus = shards.prepare(DataConfig(source=Curated(path=str(out)), tokenizer=config.tokenizer))
    tokenizer = corpus.load_tokenizer()
    assert tokenizer is not None  # made of text
    tokens = tokens_by_stage(result, tokenizer)
    page = write_curation(result, out, tokens)
    if args.json is not None:
        write_json(args.json, curation_json(result, tokens))
    echo(render_terminal(curation_document(result, tokens=tokens).summary(), title=True))
    echo()
    _describe(corpus)
    echo(f"report: {page}")
    return 0


def _describe(corpus: "Corpus") -> None:
    """Print what a corpus holds."""
    from scalelab.report.document import Document, Facts
    from scalelab.report.render.terminal import render_terminal
    from scalelab.units import si

    size = corpus.bytes_per_token
    sides = corpus.manifest.splits
    facts = Facts(
        [
            (
                "documents",
                f"{sides['train'].n_documents:,} training, {sides['validation'].n_documents:,} validation",
            ),
            *_left_out(corpus.manifest.skipped),
            ("training tokens", si(corpus.n_train)),
            ("validation tokens", si(corpus.n_validation)),
            ("vocabulary", f"{corpus.vocab_size} tokens"),
            ("bytes per token", "not made of text" if size is None else f"{size:.2f}"),
            ("tokenizer", str(corpus.tokenizer)),
            ("directory", str(corpus.path)),
        ]
    )
    echo(render_terminal(Document(f"Corpus {corpus.digest}", [facts]), title=True))


def _left_out(skipped: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return one fact per reason for which documents or paths were left out, with examples."""
    facts = []
    for reason, found in (skipped or {}).items():
        examples = ", ".join(found["examples"]) + (", ..." if found["count"] > len(found["examples"]) else "")
        facts.append(("left out", f"{found['count']:,} {reason}: {examples}"))
    return facts
