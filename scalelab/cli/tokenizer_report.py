"""`scalelab tokenizer-report`: compare the tokenizers of sweep files on the same text."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.cli.arguments import add_json, add_out, add_set, examples
from scalelab.screen import echo

if TYPE_CHECKING:
    from scalelab.report.tokenizers.document import TrainedLoss
    from scalelab.sweep.file import SweepFile

DESCRIPTION = (
    "Compare the tokenizers of sweep files on the text of the first: bytes per token by domain, how numbers and code "
    "are split, and perplexity per token beside bits per byte. Corpora that are not prepared are prepared. The text is "
    "a sample of whole documents; its domains are the parts of a mix, or top directories. With --set the files are "
    "compared as they are and as changed. The best trained run of each sweep is shown too."
)
EXAMPLES = examples(
    "scalelab tokenizer-report a.yaml b.yaml",
    "scalelab tokenizer-report a.yaml --set recipe.data.tokenizer.vocab_size=4096",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE.yaml", help="sweep files, each with a tokenizer"
    )
    add_set(parser, "recipe.data.tokenizer.vocab_size=4096", "the files")
    parser.add_argument(
        "--bytes",
        type=float,
        default=4e6,
        metavar="COUNT",
        help="UTF-8 bytes of the sample that tokenizers are compared on (default: 4e6)",
    )
    add_json(parser, "the comparison")
    add_out(parser, "the report", "reports/NAME-tokenizers")


def run(args: argparse.Namespace) -> int:
    """Compare, print the tables, write the report, and return the exit status."""
    from scalelab.data.base import TextSource
    from scalelab.data.corpus import shards
    from scalelab.data.tokenizers.comparison import compare, sample
    from scalelab.errors import ConfigError
    from scalelab.files import write_json
    from scalelab.report.render.terminal import render_terminal
    from scalelab.report.tokenizers.document import tokenizer_document
    from scalelab.report.tokenizers.page import tokenizer_json, write_tokenizer_report
    from scalelab.sweep.file import SweepFile

    paths = args.files
    names = file_names(paths)
    files = {name: SweepFile.load(path) for name, path in names.items()}
    if args.set:
        files |= {f"{name}, changed": SweepFile.load(path, args.set) for name, path in names.items()}
    first = next(iter(files.values()))
    if not args.bytes >= 1:
        raise ConfigError(
            f"--bytes is {args.bytes:g}", where="scalelab tokenizer-report", fix="ask for 1 or more"
        )
    for name, file in files.items():
        if not isinstance(file.recipe.data.source, TextSource):
            raise ConfigError(
                f"the source {file.recipe.data.source.kind} has tokens and no tokenizer",
                where=f"{name}: recipe.data.source",
                fix="name sweep files whose source is text",
            )
    tokenizers = {name: shards.prepare(file.recipe.data).load_tokenizer() for name, file in files.items()}
    source = first.recipe.data.source
    scores = compare(tokenizers, sample(source, int(min(args.bytes, 1e15))))
    text = f"{source.kind} source of {paths[0]}"
    trained = {name: one for name, file in files.items() if (one := _best_run(file)) is not None}
    echo(render_terminal(tokenizer_document(scores, text, trained)))
    page = write_tokenizer_report(
        scores, text, trained, args.out or Path("reports") / f"{first.name}-tokenizers"
    )
    if args.json is not None:
        write_json(args.json, tokenizer_json(scores, text, trained))
    echo(f"\nreport: {page}")
    return 0


def file_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by their names without the ending; by their paths where several have one name."""
    found: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        is_alone = all(other == path or other.stem != path.stem for other in paths)
        found[path.stem if is_alone else str(path)] = path
    return found


def _best_run(file: "SweepFile") -> "TrainedLoss | None":
    """Return the loss of the best finished run of a sweep with this very data; None where there is none."""
    from scalelab.errors import ScalelabError
    from scalelab.files import runs_directory
    from scalelab.records.sweep_manifest import SweepManifest
    from scalelab.report.tokenizers.document import TrainedLoss
    from scalelab.train.run_directory import RunDir

    try:
        found = [
            (result.loss, planned.run, result)
            for planned in SweepManifest.load(runs_directory(), file.name).runs
            for run_dir in (RunDir(runs_directory() / planned.dir),)
            if (result := run_dir.result()) is not None
            and result.loss is not None
            and result.bpb is not None
            and run_dir.spec().data == file.recipe.data
        ]
    except ScalelabError:
        return None
    if not found:
        return None
    loss, run, result = min(found, key=lambda one: one[:2])
    return TrainedLoss(run, result.n_params_total, loss, result.bpb)
