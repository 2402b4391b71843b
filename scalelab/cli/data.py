"""`scalelab data`: prepare the corpus of a sweep file."""

import argparse
from collections.abc import Mapping
from typing import Any

from scalelab.cli.arguments import add_file, add_set, examples, read_file_argument
from scalelab.screen import echo

DESCRIPTION = (
    "Prepare the corpus of a sweep file: train the tokenizer, split training from validation, and write "
    "token shards. A corpus that is prepared already is only described."
)
EXAMPLES = examples(
    "scalelab data sweeps/isoflop.yaml", "scalelab data sweeps/isoflop.yaml --set recipe.data.validation=0.01"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "sweep")
    add_set(parser, "recipe.data.validation=0.01")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus, print what it holds, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from scalelab.data.corpus import shards
    from scalelab.report.document import Document, Facts
    from scalelab.report.render.terminal import render_terminal
    from scalelab.sweep.file import SweepFile
    from scalelab.units import si

    file = SweepFile.load(path, args.set)
    corpus = shards.prepare(file.recipe.data)
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
    return 0


def _left_out(skipped: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return one fact per reason for which documents or paths were left out, with examples."""
    facts = []
    for reason, found in (skipped or {}).items():
        examples = ", ".join(found["examples"]) + (", ..." if found["count"] > len(found["examples"]) else "")
        facts.append(("left out", f"{found['count']:,} {reason}: {examples}"))
    return facts
