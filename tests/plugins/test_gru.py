"""A GRU that another package adds: conformance, and its whole way through the command line."""

import json
import shutil
from types import SimpleNamespace

import observe
import pytest
import torch
from in_process import in_process

from scalelab.testing import architectures as suite

SWEEP = observe.SWEEP.replace(
    "{kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}", "{kind: gru, layers: 1, width_step: 4}"
).replace("[4e9, 1e10, 2.4e10]", "[4e9, 7e9, 1.2e10]")
PLAN = (
    "plan",
    "journey",
    "--budget",
    "5e10",
    "--law",
    "kaplan",
    "--replicates",
    "100",
    "--override",
    "a test",
)
LAUNCH = ("launch", "plan", "--set", "threads=1")
ONE_SLICE = ("--set", "design.budgets=[4e9]")
EVAL = """
name: measured
models: {one: MODEL}
perplexity:
- {name: held-out, corpus: validation, max_documents: 4}
tasks:
- {kind: generation, name: say, rows: sayings.jsonl, n_new: 4}
"""


@pytest.fixture
def gru(examples):
    """The module, and its smallest models."""
    from scalelab_examples import gru

    return SimpleNamespace(module=gru, models=suite.small_models("gru", {"layers": 2}))


def test_it_keeps_the_contract(gru):
    for model in gru.models:
        suite.check_architecture(model)


def test_counts_and_flops_by_hand(gru):
    """2 layers of 8 units: 3 gates of 8 x 8 twice, and 2 x 24 biases; 50 tokens twice."""
    size = gru.models[0].size(12)

    assert size.n_params_non_embedding == 2 * (2 * 3 * 64 + 48) == 864
    assert size.n_params_total == size.n_params_active == 864 + 2 * 400
    assert size.n_params_matmul == 768 + 400
    # No gradient goes to the state before the first of 12 tokens: 2 x 192 FLOPs a layer.
    assert size.flops_per_token == 6 * 1168 - 2 * 384 / 12


def test_torch_counts_the_same_flops_exactly(gru, monkeypatch):
    monkeypatch.setattr(suite, "FLOP_MISS", 1e-12)

    suite.check_flops(gru.models[0])


def test_segments_need_no_more_memory_than_their_tokens(gru):
    network, x = suite.shaken(gru.models[0]), torch.arange(12)[None] % 50
    owner = (torch.arange(12)[None] > 3).long()

    with torch.no_grad():
        found = network(x, segments_BT=owner)

    assert torch.allclose(found[:, 4:], network(x[:, 4:]), atol=1e-6)
    assert not torch.allclose(found[:, 4:], network(x)[:, 4:], atol=1e-3)


@pytest.fixture(scope="module")
def swept(worlds):
    """A world in which the sweep was run once."""
    world = worlds("gru", SWEEP)
    done = world("sweep", "journey.yaml", "--no-timing")
    assert done.returncode == 0, done.stderr
    return world


@pytest.fixture(scope="module")
def launched(swept):
    """The same world with a plan from it, and the final run that was launched."""
    for argv in ((*PLAN, "--out", "plan"), LAUNCH):
        done = swept(*argv)
        assert done.returncode == 0, done.stderr + done.stdout
    return swept


def results(world, name="journey"):
    return observe.run_results(world.runs / name)


@pytest.mark.usefixtures("examples")
def test_a_dry_run_shows_its_recipe(swept):
    shown = in_process(swept, "sweep", "journey.yaml", "--dry-run", *ONE_SLICE)

    assert shown.returncode == 0, shown.stderr
    assert "gru, N counted as matmul" in shown.stdout
    assert "no room for: N planned" in shown.stdout  # at 80 columns


def test_a_killed_sweep_ends_with_the_same_last_bit(swept, worlds, killed):
    world = worlds("killed", SWEEP)

    killed(world, "journey/*/log.jsonl", "sweep", "journey.yaml", *ONE_SLICE)

    ours, theirs = results(world), results(swept)
    assert len(ours) == 3
    assert all(result in theirs for result in ours)


@pytest.mark.usefixtures("examples")
def test_it_is_fitted(swept):
    fit = in_process(swept, "fit", "journey", "--replicates", "50")

    assert fit.returncode == 0, fit.stderr
    assert json.loads((swept.path / "reports/journey/fit.json").read_text())["n_runs"] == 9


def test_a_plan_knows_its_shape_and_its_memory(launched):
    plan = json.loads((launched.path / "plan" / "plan.json").read_text())

    assert plan["run"]["model"]["kind"] == "gru"
    assert plan["memory"]["total_bytes"] > 0
    assert "1 GRU layers x" in (launched.path / "plan" / "README.md").read_text()


@pytest.mark.usefixtures("examples")
def test_a_plan_for_many_devices_is_refused(swept):
    done = in_process(swept, *PLAN, "--out", "many", "--gpus", "2", "--gpu", "h100", "--mfu", "0.4")

    assert done.returncode == 2
    assert "gru models cannot be trained on several processes, and there are 2 devices" in done.stderr


def test_a_killed_launch_goes_on_to_the_same_last_bit(launched, worlds, killed):
    world = worlds("launch", SWEEP)
    shutil.copytree(launched.path / "plan", world.path / "plan")
    name = json.loads((world.path / "plan" / "plan.json").read_text())["name"]

    killed(world, f"{name}/*/checkpoints/sharded-*", *LAUNCH, "--set", "checkpoint_s=0.1")

    assert results(world, name) == results(launched, name)
    (path,) = world.runs.glob(f"{name}/*/result.json")
    assert json.loads(path.read_text())["n_resumes"] == 1


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("layout", "word"),
    [
        ("replicate=2", "data-parallel"),
        ("shard=2", "sharded"),
        ("tensor=2", "tensor-parallel"),
        ("pipeline=2,micro_batches=2", "pipeline-parallel"),
    ],
)
def test_a_layout_over_processes_is_refused_by_name(launched, layout, word):
    done = in_process(launched, "launch", "plan", "--layout", layout)

    assert done.returncode == 2
    assert f"gru has no {word} layout" in done.stderr


@pytest.mark.usefixtures("examples")
def test_an_export_is_refused_by_name_and_writes_nothing(swept):
    run = next(swept.runs.glob("journey/*/result.json")).parent
    done = in_process(swept, "export", str(run), "checkpoint")

    assert done.returncode == 2
    assert "gru cannot be exported to a Hugging Face checkpoint" in done.stderr
    assert not (swept.path / "checkpoint").exists()


def test_its_perplexity_is_measured_and_it_writes(swept):
    run = next(swept.runs.glob("journey/*/result.json")).parent
    (swept.path / "measured.yaml").write_text(EVAL.replace("MODEL", str(run)))
    rows = [{"prompt": word, "answer": word} for word in ("the", "a", "token")]
    (swept.path / "sayings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = swept("eval", "measured.yaml", "--json", "evals.json")

    assert done.returncode == 0, done.stderr
    kinds = [one["kind"] for one in json.loads((swept.path / "evals.json").read_text())["measured"]]
    assert {"perplexity", "task"} <= set(kinds), kinds
