"""The report of a post-training: what a terminal shows, what the page adds, and unsafe text in both."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.posttrain.display import ProxyGoldCurve, StageDisplay, StageTable
from scalelab.posttrain.run import StageLabels
from scalelab.posttrain.stages.grade import SetGrade
from scalelab.records.stage_manifest import StageResult
from scalelab.report.posttrain.document import result_document
from scalelab.report.posttrain.mirror import metrics
from scalelab.report.posttrain.results import GradedModel, PosttrainResults
from scalelab.report.render.html import render_html
from scalelab.report.render.markdown import render_markdown
from scalelab.report.render.terminal import render_terminal

SETS = ("same", "words", "longer", "wording", "same.sampled")


def stage(name, kind="sft", **changes):
    numbers = {"metrics": {"loss": 0.5}, "flops": 3e15, "flops_by": {}, "n_tokens": 1_000_000}
    about = {"memory_bytes": {"trained": 10**9}, "seconds": 70.0, "device": "cpu", "n_resumes": 0}
    end = {"status": "finished", "reason": None, "versions": {}, "finished_ms": 0}
    return StageResult(stage=name, kind=kind, id="0" * 12, **numbers | about | end | changes)


def graded(name, accuracy, start=None, wins=None):
    sets = {s: SetGrade(s, 300, accuracy, 0.028, accuracy - 0.2, 0.031, words=4.0, ended=0.97) for s in SETS}
    return GradedModel(name, "sft", start, sets, bpb=1.234, flops=3e15, wins=wins)


@pytest.fixture
def data():
    wins = {
        "baseline": "sft",
        "raw": 0.612,
        "raw_interval": (0.56, 0.66),
        "lc": 0.58,
        "lc_interval": (0.51, 0.64),
    }
    kl = np.linspace(0, 4, 5)
    return PosttrainResults(
        name="assistant",
        question="Does it answer?",
        prediction="Yes, in most cases.",
        base={"path": "runs/final/run", "flops": 7e15, "flops_before": 2e16},
        seed=0,
        models=[graded("base", 0.25), graded("sft", 0.5), graded("dpo-sft", 0.55, "sft", wins)],
        stages=[stage("sft"), stage("dpo-sft", "dpo"), stage("grade.sft", "grade")],
        undone={"ppo": "it needs judge, which is not there"},
        series=[],
        series_of="",
        curves=[ProxyGoldCurve("best", kl, kl, [0.1, 0.3, 0.2, 0.1, 0.0], "by formula")],
        displays={"sft": StageDisplay(tables=[StageTable("samples", [{"tensor": "a", "share": 0.25}])])},
        grading={"grade.sft"},
    )


def test_the_summary_fits_80_columns_and_loses_no_test_set(data):
    text = render_terminal(result_document(data), 80)

    assert max(map(len, text.splitlines())) <= 80
    heads = [line.split() for line in text.splitlines() if line.split()[:1] in (["accuracy"], ["gold"])]
    assert heads == [["accuracy", *SETS, "bits/byte"], ["gold", *SETS]]
    assert "dpo-sft over sft: 61.2% [56.0%, 66.0%] (measured)" in text
    assert "gold is highest at KL 1.00 nats" in text
    assert "9e15 FLOPs (computed)" in text
    assert "25.0% of 3.6e16" in text
    assert "  - ppo: it needs judge, which is not there" in text
    assert "samples" not in text


def test_the_page_adds_every_grade_with_its_error_and_every_stage(data):
    page = render_markdown(result_document(data))

    assert page.startswith("# Post-training: assistant\n")
    assert "| expected | Yes, in most cases. |" in page
    assert "| base | same | 300 | 0.250 ± 0.028 | +0.050 ± 0.031 | 4.0 | 3% |" in page
    assert "| sft | sft | finished | 1M | 3e15 | 70 s | 1GB | loss 0.5 |" in page
    assert "| flops | 7e+15 |" in page
    assert "| grade.sft |" not in page
    assert "### sft: samples" in page
    assert "| a | 0.25 |" in page
    assert "![overreach](overreach.png)" in page
    assert "![series]" not in page


def test_names_and_reasons_are_escaped_everywhere(data):
    name = "*<b>\x1b[31m|"
    data = replace(data, models=[graded(name, 0.5)], undone={name: "\x1b]0;title\x07"}, base={name: name})
    document = result_document(data)

    for text in (
        render_terminal(document, 80),
        render_markdown(document),
        render_html(document, detail=True),
    ):
        assert not {c for c in text if c != "\n" and not c.isprintable()}
    assert "<b>" not in render_markdown(document)
    assert "<b>" not in render_html(document, detail=True)


def test_grades_without_gold_have_no_table_of_gold(data):
    sets = {"same": SetGrade("same", 10, 0.5, 0.1)}
    models = [GradedModel("base", "base", None, sets, bpb=None, flops=None)]

    text = render_terminal(result_document(replace(data, models=models)), 80)

    assert [line.split() for line in text.splitlines() if "same" in line] == [["accuracy", "same"]]
    assert "bits/byte" not in text
    assert not [line for line in text.splitlines() if line.startswith("  gold ")]


def test_mlflow_has_the_grades_and_the_cost(data):
    found = metrics(data)

    assert found["sft.same.accuracy"] == 0.5
    assert found["base.bpb"] == 1.234
    assert found["flops"] == 9e15


def test_an_example_from_training_data_cannot_control_the_terminal():
    class Planned:
        name = "sft"

        class spec:  # noqa: N801
            class stage:  # noqa: N801
                kind = "sft"
                display = staticmethod(lambda result: StageDisplay())
                example = staticmethod(lambda path: "\x1b[2J said")

        class dir:  # noqa: N801
            path = None
            result = staticmethod(lambda: stage("sft"))

    class Ended:
        outcome = "done"

        class job:  # noqa: N801
            id = "sft"

    assert (
        StageLabels([Planned]).state(Ended) == "done in 70 s, 3e15 FLOPs; \N{REPLACEMENT CHARACTER}[2J said"
    )


def test_a_narrow_terminal_keeps_the_first_test_set(data):
    only_same = replace(data.models[1], sets={"same": SetGrade("same", 10, 0.5, 0.1)})

    text = render_terminal(result_document(replace(data, models=[data.models[0], only_same])), 50)

    rows = [line.split() for line in text.splitlines()]
    assert ["accuracy", "same", "words", "longer", "bits/byte"] in rows
    assert ["base", "0.250", "0.250", "0.250", "1.234"] in rows
    assert ["sft", "0.500", "1.234"] in rows
    assert "(no room for: same.sampled, wording)" in text
    assert "at most 0.100 of accuracy, at most 0.031 of gold" in " ".join(text.split())
