"""Published figures come out of this project's code: every row of analysis/published_checks.md."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "analysis"


def _script():
    spec = importlib.util.spec_from_file_location("published_checks", HERE / "published_checks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
ROWS = SCRIPT.checks()
LOOSEST = 0.05  # what a figure printed with two digits may be off by


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.claim)
def test_a_published_figure_is_reproduced(row):
    assert row.computed == pytest.approx(row.published, rel=row.within)
    assert row.within <= LOOSEST
    assert row.agrees


@pytest.mark.parametrize(
    ("claim", "published"),
    [
        ("Llama 3 405B: 6 N D", 3.8e25),
        ("Llama 3 405B: hours", 26e6),
        ("Llama 3 405B: on 16,000 devices", 70),
        ("Llama 3 405B: money", 52e6),
        ("Llama 3 405B: carbon", 4.4e6),
        ("DeepSeek-V3: at $2 an hour", 5.576e6),
        ("70B: weights, gradients and Adam, 16 bytes a parameter", 1.12e12),
        ("GPT-3: weights in fp32", 700e9),
        ("PaLM 540B: MFU at 238,300 tokens/s on 6,144 TPU v4", 0.462),
    ],
)
def test_the_figures_that_were_asked_for_are_there(claim, published):
    assert [row.published for row in ROWS if row.claim == claim] == [published]


def test_every_row_of_chinchillas_table_and_both_cases_of_use_are_there():
    assert sum(row.source == SCRIPT.HOFFMANN for row in ROWS) == 6
    assert sum("Sardana" in row.source for row in ROWS) == 4


@pytest.mark.parametrize(
    ("name", "over"), [("GPT-3", False), ("Gopher", False), ("PaLM", False), ("Llama 3 405B", True)]
)
def test_history_lies_on_its_side_of_the_optimum(name, over):
    (model,) = (m for m in SCRIPT.HISTORY if m.name == name)

    assert (model.tokens_per_param > model.optimal) is over


def test_chinchilla_is_nearly_optimal_and_gopher_is_not():
    by_name = {m.name: m for m in SCRIPT.HISTORY}

    # Hoffmann et al.: with the compute of Gopher a model a quarter its size is better.
    assert 0 <= by_name["Chinchilla"].wasted < 0.01
    assert by_name["Gopher"].wasted > 0.3


def test_tokens_that_nobody_published_stay_unknown():
    (model,) = (m for m in SCRIPT.HISTORY if m.name == "GPT-2")

    assert (model.flops, model.tokens_per_param, model.optimal, model.wasted) == (None,) * 4


def test_the_page_in_the_repository_is_what_the_script_writes():
    written = (HERE / "published_checks.md").read_text(encoding="utf-8")

    assert written == SCRIPT.page(ROWS, SCRIPT.HISTORY)
