"""From a table and a recipe to a sweep file of one run, without the corpus."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scalelab.cli.main import main
from scalelab.data.vocabulary import UNPREPARED
from scalelab.errors import PlanError
from scalelab.plan.plan import Plan
from scalelab.plan.planner import UNIQUE, make_plan
from scalelab.plan.request import PlanRequest
from scalelab.plan.run_settings import RUN_FILE, run_yaml_of, settings_of
from scalelab.plan.source import from_table
from scalelab.sweep.file import SweepFile

RECIPE = """name: s
question: q
prediction: p
recipe:
  data: {source: {kind: text, paths: ['FOLDER/a.txt']}, tokenizer: {vocab_size: 512}}
  seq_len: 256
  model: {kind: transformer, n_layers: 2, head_size: 16}
  optimizer:
    lr: {kind: power, coefficient: 1.79, n_params: -0.713, n_tokens: 0.307}
    width_exponent: 0
    batch_exponent: 0
    beta2: 0.9
  batch: {coefficient: 8, exponent: 0.5}
  schedule: {kind: wsd, warmup: 0.05}
design: {kind: isoflop, budgets: [1e15, 1e16], tokens_per_param: 20}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with a table of C = 6 N D, a recipe, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    lines = ["n_params,n_tokens,loss,flops,flops_planned"]
    for C in (1e16, 3e16, 1e17, 3e17):
        for N in 0.09 * C**0.5 * np.geomspace(0.3, 3, 7):
            D = C / 6 / N
            loss = 1.8 + 480 / N**0.35 + 2100 / D**0.37
            lines.append(",".join(f"{v:.10g}" for v in (N, D, loss, C, C)))
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "s.yaml").write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    return tmp_path


def planned(**request):
    source = from_table(Path("t.csv"), "", recipe=Path("s.yaml"))
    return make_plan(PlanRequest(budget=1e18, replicates=0, law=("isoflop", "chinchilla"), **request), source)


def test_every_setting_has_its_source(folder):
    found = planned(tokens_available=300e9)
    rows = {row.name: row for row in settings_of(found)}
    spec = found.final.spec

    assert rows["parameters N"].kind == rows["tokens D"].kind == "table"
    assert rows["parameters N"].source == "laws fitted to t.csv"
    assert rows["shape"].value.startswith("2 layers x ")
    assert rows["batch"].value == f"{spec.batch_tokens:,} tokens"
    assert (rows["batch"].kind, rows["context"].kind) == ("rule", "recipe")
    assert rows["learning rate"].value == f"{spec.optimizer.lr_matrix:.3g}"
    assert rows["learning rate"].kind == "rule"
    assert "lr by 'power'" in rows["learning rate"].source
    assert rows["optimizer, not set"].kind == "assumed"
    assert "beta1 0.9" in rows["optimizer, not set"].value
    assert "beta2" not in rows["optimizer, not set"].value
    assert (rows["tokens available"].value, rows["tokens available"].kind) == ("300B", "stated")
    assert found.plan.spec is None
    assert found.plan.model["n_steps"] == spec.n_steps


def test_a_rule_beyond_what_it_was_fitted_on_is_a_warning_of_the_forecast(folder):
    text = (folder / "s.yaml").read_text()
    assert planned(tokens_available=300e9).forecast.warnings  # others are there too
    marked = text.replace("n_tokens: 0.307}", "n_tokens: 0.307, fitted_on: {n_tokens: [1e8, 2e8]}}")
    (folder / "s.yaml").write_text(marked)
    found = planned(tokens_available=300e9)
    (warning,) = [w for w in found.forecast.warnings if "extrapolated" in w]

    assert warning.startswith("optimizer.lr by power is extrapolated: fitted on 1e8 to 2e8 tokens, asked at")
    assert warning in {row.value for row in settings_of(found)}


def test_with_a_limit_on_unique_tokens_size_and_tokens_are_still_those_of_the_laws(folder):
    found = planned(tokens_available=5e8, unique_tokens=5e8)

    assert found.chosen == UNIQUE
    rows = {row.name: row for row in settings_of(found)}
    assert rows["parameters N"].kind == rows["tokens D"].kind == "table"
    assert "laws fitted to t.csv" in rows["tokens D"].source


@pytest.mark.parametrize(
    "constraint", [{}, {"params": 3e7}, {"tokens": 3e9}, {"max_params": 3e7}, {"seed": 7}]
)
def test_the_file_is_the_run_of_the_plan(folder, constraint):
    found = planned(tokens_available=300e9, **constraint)
    (folder / RUN_FILE).write_text(run_yaml_of(found))
    file = SweepFile.load(folder / RUN_FILE)

    (proposal,) = file.design.ask(file.recipe, vocab_size=512, data_digest=UNPREPARED)
    assert proposal.spec == found.final.spec
    assert file.name == found.plan.name
    assert f"# batch: {found.final.spec.batch_tokens:,} tokens [rule:" in (folder / RUN_FILE).read_text()


def test_the_command_writes_it(folder, capsys):
    argv = [
        "plan",
        "t.csv",
        "--budget",
        "1e18",
        "--replicates",
        "0",
        "--law",
        "isoflop",
        "--recipe",
        "s.yaml",
    ]
    assert main([*argv, "--tokens-available", "300e9"]) == 0
    said = capsys.readouterr().out
    file = SweepFile.load(folder / "plans" / "t-1e18" / RUN_FILE)

    assert "Settings of the run, with their sources" in said
    assert f"next: scalelab data plans/t-1e18/{RUN_FILE}" in said
    assert Plan.load(folder / "plans" / "t-1e18").spec is None
    (proposal,) = file.design.ask(file.recipe, vocab_size=512, data_digest=UNPREPARED)
    assert proposal.spec.n_steps == Plan.load(folder / "plans" / "t-1e18").model["n_steps"]


def test_text_that_is_elsewhere_is_no_obstacle(folder):
    assert not (folder / "a.txt").exists()
    assert planned(tokens_available=300e9).final is not None


def test_a_corpus_that_is_neither_prepared_nor_stated_is_refused(folder):
    with pytest.raises(
        PlanError, match=r"is not prepared[\s\S]*scalelab data s.yaml[\s\S]*--tokens-available"
    ):
        planned()


def test_a_stated_corpus_that_is_too_short_is_no_run(folder):
    found = planned(tokens_available=1e6, override="nothing makes a corpus longer")

    (refusal,) = found.not_frozen
    assert "the corpus has 1M: " in refusal.reason
    assert not refusal.overridable
    assert found.plan.spec is None


def test_a_stated_number_needs_a_recipe(folder):
    with pytest.raises(PlanError, match="--tokens-available requires a recipe"):
        make_plan(
            PlanRequest(budget=1e18, replicates=0, tokens_available=3e11), from_table(Path("t.csv"), "")
        )


def test_a_prepared_corpus_is_counted(folder):
    class Prepared:
        n_train, digest, vocab_size = 2_560_001, "0123456789ab", 512

    source = from_table(Path("t.csv"), "", recipe=Path("s.yaml"))
    source = replace(source, corpus=Prepared(), data_digest=Prepared.digest)

    assert source.with_tokens_available(2.56e6).tokens_available is None
    with pytest.raises(PlanError, match=r"is 300B, and the corpus of the recipe has 2\.56M"):
        source.with_tokens_available(300e9)
