"""The functions that read what people write, each from a path to an answer that can be compared.

A reader does all that a dry run of its command does with the file itself: it reads, checks and expands.
"""

import glob
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scalelab.config import parse_yaml
from scalelab.data.base import SkippedDocuments, TokenizerConfig
from scalelab.data.chat import Chat, with_markers
from scalelab.data.hashing import sha256
from scalelab.data.sources.text import TextFiles
from scalelab.data.tokenizer import train as train_tokenizer
from scalelab.evals.conversations.file_conversations import FileConversations
from scalelab.evals.file import EvalFile
from scalelab.plan.cost.rates import Rates
from scalelab.plan.plan import Plan
from scalelab.plan.planner import price
from scalelab.plan.request import PlanRequest
from scalelab.posttrain.pairs import load_pairs
from scalelab.posttrain.pipeline import PosttrainFile
from scalelab.records.runs import read_external
from scalelab.report.fit.document import fit_document
from scalelab.report.plan.document import plan_document
from scalelab.report.render.terminal import render_terminal
from scalelab.study.from_table import columns_read
from scalelab.study.request import FitRequest, fit_evidence
from scalelab.study.study import DEFAULT_LAWS
from scalelab.sweep.file import SweepFile

ROOT = Path(__file__).resolve().parents[2]


def sweep(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    """Return every run that a sweep file describes, by its id."""
    file = SweepFile.load(path, overrides)
    _reads_back(SweepFile, file)
    with file.located():
        session = file.design.study(file.recipe, vocab_size=257, data_digest="unprepared")
        return [(one.spec.id, one.spec.n_steps) for one in session.ask()]


def posttrain(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    """Return the stages of a post-training file."""
    file = PosttrainFile.load(path, overrides)
    _reads_back(PosttrainFile, file)
    return file.digest, [stage.name for stage in file.stages]


def evaluation(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    """Return the measurements of an evaluation file."""
    file = EvalFile.load(path, overrides)
    _reads_back(EvalFile, file)
    return file.digest, sorted(file.sections)


def rates(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    """Return the prices of a rates file."""
    del overrides  # the file of --rates has none
    return {name: str(price) for name, price in Rates.load(path).prices.items()}


YAML_FILES = {
    "sweep": (sweep, ROOT / "sweeps" / "smoke.yaml"),
    "posttrain": (posttrain, ROOT / "sweeps" / "posttrain" / "assistant.yaml"),
    "evaluation": (evaluation, ROOT / "sweeps" / "eval" / "compared.yaml"),
    "rates": (rates, ROOT / "scalelab" / "plan" / "cost" / "rates.yaml"),
}
"""Each kind of YAML file: its reader, and a file that is right."""


def _reads_back(kind: Any, file: Any) -> None:
    """A file that was read is written into manifests, and has to be read from there again."""
    again = kind.parse(parse_yaml(file.to_yaml(), "the manifest"))
    assert again == file, "written and read again, the file is another one"
    assert again.digest == file.digest, "written and read again, the file has another digest"


def run_table(path: Path) -> Any:
    """Return the evidence of a table."""
    return _evidence(read_external(path, {}, columns_read(DEFAULT_LAWS), None))


def data_frame_of(path: Path, frame: Any) -> Any:
    """Return the evidence of a table in memory; there is no file."""
    del path
    return _evidence(read_external(frame, {}, columns_read(DEFAULT_LAWS), None))


def fitted_table(path: Path, replicates: int = 20) -> Any:
    """Return the evidence of a table, and the forecast of a fit to it."""
    runs = read_external(path, {}, columns_read(DEFAULT_LAWS), None)
    study = fit_evidence(runs.evidence, FitRequest.of(None, target_flops=1e22, replicates=replicates))
    return _evidence(runs) | {
        "forecast": dict(study.forecast.values),
        "text": render_terminal(fit_document(study, runs.name)),
        "json": json.dumps(study.to_json(), allow_nan=False),
    }


def _evidence(runs: Any) -> dict[str, Any]:
    table = runs.evidence.table
    columns = [table[name].astype(float) for name in ("n_params", "n_tokens", "loss")]
    return {"rows": sorted(zip(*columns, strict=True)), "excluded": list(runs.evidence.excluded)}


def text(path: Path, field: str = "text", document: Any = "paragraph", patterns: tuple[str, ...] = ()) -> Any:
    """Return the documents of files of text, without white space at their ends, and how many were skipped.

    Args:
        path: A file, or a directory with patterns.
        field: Field of a record that holds the text.
        document: What one document of a plain file is.
        patterns: Globs below the directory; none: the file itself.
    """
    paths = tuple(f"{path}/{pattern}" for pattern in patterns) or (glob.escape(str(path)),)
    source = TextFiles(paths=paths, field=field, document=document)
    skips = SkippedDocuments()
    source.fingerprint(sha256)
    found = [one.text.strip() for one in source.documents(skips)]
    return {"documents": found, "skipped": sum(skips.counts.values())}


def conversations(path: Path) -> Any:
    """Return the conversations of a file, as they would be trained on."""
    source = FileConversations(train=(glob.escape(str(path)),))
    source.fingerprint()
    read = source.training(None, 0)
    chat = _chat()
    for messages in read:
        chat.example(messages)
    return [[(m["role"], m["content"]) for m in messages] for messages in read]


def preference_pairs(path: Path) -> Any:
    """Return the preference pairs of a file as texts: prompt, chosen, rejected."""
    start = SimpleNamespace(chat=_chat(), seq_len=1_000_000)
    found = load_pairs(SimpleNamespace(paths={}), str(path), start, None)
    return sorted(
        ("\n".join(m["content"] for m in p.messages), *p.answers) for p in (*found.train, *found.held_out)
    )


@cache
def _chat() -> Chat:
    return Chat(with_markers(train_tokenizer(TokenizerConfig(kind="bytes"), [])))


def priced_plan(path: Path, values: dict[str, Any]) -> Any:
    """Return the price of a model that a request states; the plan is written to the path."""
    result = price(PlanRequest.parse(values))
    result.plan.write_file(path)
    again = Plan.load(path)
    return {
        "json": json.loads(path.read_text()),
        "text": render_terminal(plan_document(result)),
        "plan": again,
    }
