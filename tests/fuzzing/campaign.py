"""Every group of inputs with the reader that they are for.

    for group in groups(seed=0, scale=1.0): group.name, group.reader, group.cases()

At scale 1 there are over 1,000 YAML files, 500 tables and 300 files of text and conversations.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from fuzzing import chat_files, plan_requests, readers, run_tables, table_traps, text_files, yaml_files
from fuzzing.check import Case


@dataclass(frozen=True)
class Group:
    """Inputs of one kind, and the function that reads them."""

    name: str
    reader: Callable[..., Any]
    cases: Callable[[], Iterator[Case]]


def groups(seed: int = 0, scale: float = 1.0) -> list[Group]:
    """Return every group.

    Args:
        seed: Seed of whatever is drawn.
        scale: Share of the drawn inputs; those that are not drawn are always complete.
    """

    def some(n: int) -> int:
        return math.ceil(n * scale)

    found = [
        Group(f"{kind} files", reader, _yaml_cases(kind, base.read_text(encoding="utf-8"), some(250), seed))
        for kind, (reader, base) in readers.YAML_FILES.items()
    ]
    sweep_file = readers.YAML_FILES["sweep"][1].read_text(encoding="utf-8")
    table_file = run_tables.as_csv(run_tables.CLEAN)
    conversation_file = text_files.lines(
        [{"messages": chat_files.messages(t)} for t in chat_files.CLEAN]
    ).decode()
    table, text, chat = readers.run_table, readers.text, readers.conversations
    return [
        *found,
        Group(
            "special YAML files", readers.sweep, lambda: yaml_files.special_files("sweep.yaml", sweep_file)
        ),
        Group("other ways to write a table", table, run_tables.same_answer),
        Group("several ways at once", table, lambda: run_tables.combined(some(130), seed)),
        Group("traps", table, table_traps.traps),
        Group("bad cells", table, lambda: run_tables.bad_cells(some(160), seed)),
        Group("damaged tables", table, lambda: run_tables.damaged(some(160), seed)),
        Group("JSON tables", table, run_tables.malformed_json),
        Group("tables in memory", readers.data_frame_of, run_tables.frame_cases),
        Group("special tables", table, lambda: yaml_files.special_files("runs.csv", table_file)),
        Group("fits of odd numbers", readers.fitted_table, lambda: run_tables.odd_numbers(some(40), seed)),
        Group("fits of one table", readers.fitted_table, lambda: islice(_same_forecast(), some(12))),
        Group("requests for a plan", readers.priced_plan, lambda: plan_requests.cases(some(250), seed)),
        Group("containers of text", text, text_files.same_answer),
        Group("directories of text", text, text_files.trees),
        Group("bad records of text", text, lambda: text_files.bad_records(some(60), seed)),
        Group("damaged text", text, lambda: text_files.damaged(some(60), seed)),
        Group("special text", text, lambda: yaml_files.special_files("a.jsonl", "{}", is_corpus=True)),
        Group("layouts of conversations", chat, chat_files.same_answer),
        Group("bad conversations", chat, lambda: chat_files.bad_records(some(100), seed)),
        Group("damaged conversations", chat, lambda: chat_files.damaged(some(50), seed)),
        Group(
            "special conversations",
            chat,
            lambda: yaml_files.special_files("c.jsonl", conversation_file, is_corpus=True),
        ),
        Group("layouts of pairs", readers.preference_pairs, chat_files.pairs),
        Group("bad pairs", readers.preference_pairs, lambda: chat_files.bad_pairs(some(60), seed)),
    ]


FITTED = (
    *(
        "rows and columns reordered",
        "dead runs",
        "decimal comma",
        "suffixes",
        "every row twice",
        "JSON array",
    ),
    *("parquet of text", "extra columns reordered", "an index", "thousands commas", "tabs", "W&B states"),
)
"""Ways to write a table whose fit is compared with that of the clean one, the most different first."""


def _same_forecast() -> Iterator[Case]:
    """Yield the clean table written in other ways: the forecast has to be the same, not only the rows."""
    by_label = {case.label.removeprefix("table: "): case for case in run_tables.same_answer()}
    for label in FITTED:
        yield replace(by_label[label], expected=_as_forecast)


def _as_forecast(answer: Any) -> str | None:
    """Return how an answer differs from that of the clean table in rows or forecast."""
    right = _clean_forecast()
    for name, value in answer["forecast"].items():
        if not math.isclose(value, right[name], rel_tol=1e-5):
            return f"silent wrong answer: {name} is {value:.8g}, and {right[name]:.8g} of the clean table"
    return run_tables.equal(answer)


@cache
def _clean_forecast() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        path.write_text(run_tables.as_csv(run_tables.CLEAN), encoding="utf-8")
        return readers.fitted_table(path)["forecast"]


def _yaml_cases(kind: str, text: str, n: int, seed: int) -> Callable[[], Iterator[Case]]:
    return lambda: yaml_files.cases(kind, text, n, seed)
