"""`scalelab eval` through the real command line: measured once, alike, and refused in time."""

import json
import random
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab.cli.main import main
from scalelab.evals.file import EvalFile
from scalelab.records.sweep_manifest import SweepManifest

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
"""A deprecation that MLflow's own use of its packages sets off; it runs in this process here."""
SWEEPS = Path(__file__).parents[2] / "sweeps"

FILE = """
name: measured
question: Is it all measured?
models: {one: MODEL, other: OTHER}
perplexity:
- {name: held-out, corpus: validation, max_documents: 4}
- {name: words, source: {kind: text, paths: ["TEXT/0*.txt"]}, domain: words}
pairwise: {baseline: one, data: skills, judge: gold, prompts: 20, swapped: true}
contamination:
- {name: items, rows: items.jsonl, field: text, shards: 4, permutations: 3, control: [1], n: 5}
"""
TASKS = """
name: tasks
models: {one: MODEL}
tasks:
- {kind: choice, name: choose, rows: choices.jsonl, modes: [full, letter]}
- {kind: generation, name: say, rows: sayings.jsonl, n_new: 4}
exported: true
"""


@pytest.fixture(scope="module")
def models(undisturbed, tmp_path_factory):
    """Two model directories that converse, grown from two runs of the journey's sweep."""
    import os

    from scalelab.evals.checkpoint import Checkpoint
    from scalelab.posttrain.add_chat_tokens import with_chat_tokens
    from scalelab.posttrain.networks import merged_weights, write_model

    os.environ["SCALELAB_CACHE"] = undisturbed.environ["SCALELAB_CACHE"]
    found = []
    for path in sorted(undisturbed.runs.glob("journey/*/result.json"))[:2]:
        base = Checkpoint.load(path.parent)
        grown = with_chat_tokens(base, 0)
        out = tmp_path_factory.mktemp("model")
        # A context that a question fits in: rotary positions have no end of their own.
        longer = Checkpoint(out, grown.config, grown.network, grown.tokenizer, 128, "", base.corpus)
        write_model(out, longer, merged_weights(grown.network))
        found.append(out)
    return found


@pytest.fixture
def here(models, tiny_text, tmp_path, monkeypatch, capsys):
    """The command line in this process, in a directory with everything that is named."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("measured.yaml", FILE), ("tasks.yaml", TASKS)):
        for place, path in (("MODEL", models[0]), ("OTHER", models[1]), ("TEXT", tiny_text)):
            text = text.replace(place, str(path))
        (tmp_path / name).write_text(text)
    draw = random.Random(0)
    words = (tiny_text / "01.txt").read_text().split()
    rows = {
        "items": [{"text": " ".join(draw.sample(words, 8))} for _ in range(16)],
        "choices": [
            {"question": f"{words[i]} then", "choices": ["one", "two more"], "answer": i % 2}
            for i in range(12)
        ],
        "sayings": [{"prompt": f"say {w}", "answer": w} for w in words[:6]],
    }
    for name, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (tmp_path / f"{name}.jsonl").write_text(text)

    def run(*argv):
        code = main(list(argv))
        return code, *capsys.readouterr()

    return run


def test_everything_that_is_asked_for_is_measured_and_once(here, tmp_path):
    code, said, problems = here("eval", "measured.yaml", "--json", "evals.json")

    assert code == 0, problems
    record = json.loads((tmp_path / "evals.json").read_text())
    kinds = [one["kind"] for one in record["measured"]]
    assert {"perplexity", "pairwise", "positions", "ranking", "contamination", "aggregate"} <= set(kinds)
    assert kinds.count("perplexity") == 4
    page = (tmp_path / "reports" / "measured" / "README.md").read_text()
    assert r"| Bits per byte \[measured\] | held-out | words |" in page
    assert "depends on 2 models: one, other" in page
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as db:
        kept = db.execute(
            "select count(*) from tags where key = 'scalelab.kind' and value = 'evaluation'"
        ).fetchone()
    assert kept == (1,)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/measured/evals/*.json")}

    again, said, _ = here("eval", "measured.yaml")

    assert again == 0
    assert "  measured: " not in said
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/measured/evals/*.json")} == times


def test_what_is_kept_belongs_to_the_model_that_was_measured(here, models, tmp_path):
    shutil.copytree(models[0], tmp_path / "mine")
    asked = "perplexity=[{name: held-out, corpus: validation, max_documents: 2}]"
    setting = [
        word
        for change in ("models={one: mine}", "pairwise=", "contamination=[]", asked)
        for word in ("--set", change)
    ]
    here("eval", "measured.yaml", *setting, "--json", "a.json")

    for name in ("model.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(models[1] / name, tmp_path / "mine" / name)
    here("eval", "measured.yaml", *setting, "--json", "b.json")

    one, other = (
        json.loads((tmp_path / name).read_text())["measured"][0]["values"]["bits_per_byte"]
        for name in ("a.json", "b.json")
    )
    assert one != other


def test_tasks_go_through_lm_eval_in_process_and_exported(here, tmp_path):
    pytest.importorskip("lm_eval")

    code, said, problems = here("eval", "tasks.yaml", "--json", "evals.json")

    assert code == 0, problems
    found = json.loads((tmp_path / "evals.json").read_text())["measured"]
    names = [one["name"] for one in found if one["kind"] == "task"]
    assert names == [
        "choose.full",
        "choose.letter",
        "say.written",
        "choose.full as conversation",
        "choose.letter as conversation",
        "say.written as conversation",
    ]
    gaps = [one["values"] for one in found if one["kind"] == "exported"]
    assert len(gaps) == 6
    assert all(gap["accuracy_gap"] == 0 for gap in gaps)
    assert all(gap.get("largest_nats_gap", 0) < 1e-3 for gap in gaps)
    assert any(one["kind"] == "side_by_side" for one in found)
    assert "0 shots" in said
    assert "template" in said


def test_prediction_reads_every_finished_run(here, undisturbed, tmp_path):
    pytest.importorskip("lm_eval")
    shutil.copytree(undisturbed.runs, tmp_path / "runs")

    code, _, problems = here(
        "eval",
        "tasks.yaml",
        "--set",
        "prediction=[{sweep: journey, task: choose}]",
        "--set",
        "exported=false",
        "--json",
        "evals.json",
    )

    assert code == 0, problems
    (found,) = [
        one
        for one in json.loads((tmp_path / "evals.json").read_text())["measured"]
        if one["kind"] == "prediction"
    ]
    assert "10x the largest of 9 models" in found["text"]
    assert "choose: not predictable" in found["text"]
    assert found["values"]["predictable"] == 0.0
    assert "carried forward" in found["text"]


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("eval/*.yaml")), ids=lambda p: p.stem)
def test_every_evaluation_we_ship_says_its_question(path):
    file = EvalFile.load(path)

    assert file.name == path.stem
    assert file.question.strip().endswith("?")


def test_recipes_are_told_apart_beside_the_baseline_of_one_scale(here, undisturbed, tmp_path, monkeypatch):
    """Another sweep of other finished runs; what they score is made up, the rest is real."""
    from types import SimpleNamespace

    shutil.copytree(undisturbed.runs, tmp_path / "runs")
    manifest = SweepManifest.load(tmp_path / "runs", "journey")
    replace(manifest, sweep="rival").write(tmp_path / "runs")
    asked = []

    def evaluate(model, tasks, **how):
        asked.append(model.path)
        better = 0.02 if len(asked) > 9 else 0.0
        loss = 3.0 - 0.1 * len(model.path.name) - 0.01 * (len(asked) % 9) - better
        accuracy = 0.5 + 0.02 * (len(asked) % 9) + better
        return [
            SimpleNamespace(
                mode="full",
                chance=0.25,
                loss_per_token=SimpleNamespace(value=loss),
                accuracy=SimpleNamespace(value=accuracy, n=100),
            )
        ]

    monkeypatch.setattr("scalelab.evals.tasks.multiple_choice.evaluate", evaluate)
    monkeypatch.setattr("scalelab.evals.tasks.measurement.TasksMeasurement._measure", lambda *args: [])

    code, said, problems = here(
        "eval", "tasks.yaml", "--set", "prediction=[{sweep: journey, task: choose, against: [rival]}]"
    )

    assert code == 0, problems
    assert len(asked) == 18
    assert "1 decisions among 2 recipes" in said
    assert "by accuracy 100%" in said
    assert "carried forward" in said


def test_a_dry_run_measures_nothing(here, tmp_path):
    code, said, _ = here("eval", "measured.yaml", "--dry-run")

    assert code == 0
    assert "pairwise: 20 prompts, judged by gold" in said
    assert not (tmp_path / "runs").exists()


def test_a_model_that_does_not_converse_is_left_out_of_pairs_and_said(here, undisturbed, tmp_path):
    base = next(undisturbed.runs.glob("journey/*/result.json")).parent

    code, said, problems = here(
        "eval",
        "measured.yaml",
        "--set",
        f"models.raw={base}",
        "--set",
        "contamination=[]",
        "--set",
        "perplexity=[]",
    )

    assert code == 0, problems
    assert "raw is a base model and was skipped in pairwise comparison" in said


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("models.one=nowhere", "there is no model 'nowhere'"),
        ("models={}", "at least 1 item"),
        ("pairwise.baseline=none", "pairwise.baseline 'none' is none of the models"),
        ("pairwise.judge=golden", "unknown judge 'golden'; did you mean 'gold'?"),
        ("perplexity.0.corpus=train", "'validation'"),
        ("prediction=[{sweep: s, task: t}]", "prediction.task 't' is none of the tasks"),
        ("contamination.0.field=txt", "the record has no text in the field 'txt'"),
        ("contamination.0.rows=none.jsonl", "none.jsonl"),
        ("tasks=[{kind: chioce}]", "unknown task 'chioce'; did you mean 'choice'?"),
        ("pairwise.concise=be brief", "give both concise and verbose, or neither"),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_mend(here, change, problem):
    code, _, said = here("eval", "measured.yaml", "--set", change)

    assert code == 2
    assert problem in said
    assert "where:" in said
    assert "fix:" in said


def test_nothing_to_measure_is_refused(here, tmp_path, models):
    (tmp_path / "nothing.yaml").write_text(f"name: nothing\nmodels: {{one: {models[0]}}}\n")

    code, _, said = here("eval", "nothing.yaml")

    assert code == 2
    assert "nothing is to be measured" in said


def test_a_row_that_is_wrong_is_named_with_its_line(here, tmp_path):
    pytest.importorskip("lm_eval")
    with open(tmp_path / "choices.jsonl", "a") as file:
        file.write('{"question": "?", "choices": ["a", "b"], "answer": 7}\n')

    code, _, said = here("eval", "tasks.yaml")

    assert code == 2
    assert "choices.jsonl:13" in said
    assert "answer is 7" in said


def test_lm_eval_where_it_is_not_installed_says_what_to_install(here, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)

    code, _, said = here("eval", "tasks.yaml")

    assert code == 2
    assert "pip install -e '.[eval]'" in said
