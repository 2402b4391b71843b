"""A tuning through the real command line: trials, best values, the rule as a sweep file, and no fit of trials."""

import json

import pytest
from in_process import in_process

from scalelab.laws import tuned_settings

TUNING = """
name: tuned
question: Which rate?
prediction: A higher one.
extends: journey.yaml
fields:
  optimizer.lr: {low: 3e-4, high: 1e-1}
sizes: [5e3, 1.2e4]
tokens: [1.2e4, 2.4e4]
trials: 9
spread: 6
launch: {executor: inline}
"""


@pytest.fixture(scope="module")
def tuned(worlds):
    """A world in which the tuning was run once, and what the command printed."""
    world = worlds("tuned", mlflow=False)
    (world.path / "tuned.yaml").write_text(TUNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned_settings, "DRAWS", 16)
        yield world, in_process(world, "tune", "tuned.yaml", "--json", "out.json")


def test_a_tuning_ends_with_a_page_numbers_and_a_sweep_file(tuned):
    world, done = tuned
    found = json.loads((world.path / "out.json").read_text())
    page = (world.path / "reports/tuned/README.md").read_text()
    trials = [t for cell in found["cells"] for t in cell["trials"]]

    assert done.returncode == 0, done.stderr
    assert "36 trials: 36 finished." in done.stdout
    assert len({t["run"] for t in trials}) == len(trials) == 36
    for t in trials:
        result = json.loads((world.runs / "tuned" / t["run"] / "result.json").read_text())
        assert result["loss"] == t["loss"]
    for cell in found["cells"]:
        assert ("problem" in cell) == bool(cell["reruns"])
        assert not {t["seed"] for t in cell["reruns"]} & {t["seed"] for t in cell["trials"]}
        if "best" in cell:
            assert cell["interval"]["optimizer.lr"][0] < cell["best"]["optimizer.lr"]
            assert cell["best"]["optimizer.lr"] < cell["interval"]["optimizer.lr"][1]
        else:
            assert cell["problem"] in done.stdout.replace("\n    ", " ")
    assert "Best values (fitted)" in page
    for figure in ("tune_surface.png", "tune_optima.png"):
        assert (world.path / "reports/tuned" / figure).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_written_recipe_is_a_sweep_with_the_rule(tuned):
    world, _ = tuned
    recipe = world.path / "reports/tuned/recipe.yaml"
    rule = json.loads((world.path / "out.json").read_text())["written"]["optimizer.lr"]
    rate = float(rule.get("value", rule.get("coefficient")))

    planned = in_process(world, "sweep", "reports/tuned/recipe.yaml", "--dry-run", "--no-timing")

    assert planned.returncode == 0, planned.stderr
    assert "9 runs" in planned.stdout
    assert "Outside of fitted_on it is extrapolated" in recipe.read_text().replace("\n# ", " ")
    tuned_cells = [c for c in json.loads((world.path / "out.json").read_text())["cells"] if "best" in c]
    for name in ("n_params", "n_tokens"):
        ends = [f(c[name] for c in tuned_cells) for f in (min, max)]
        assert rule["fitted_on"][name] == ends
    shown = " ".join(planned.stdout.split())
    assert f"optimizer.lr by {rule['kind']} is extrapolated: fitted on" in shown
    assert f"{rate:g}"[:5] in recipe.read_text()


def test_the_same_command_again_trains_nothing_and_finds_the_same(tuned):
    world, _ = tuned
    journals = {p: p.stat().st_mtime_ns for p in world.runs.glob("tuned/*/log.jsonl")}

    again = in_process(world, "tune", "tuned.yaml", "--json", "again.json")

    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in world.runs.glob("tuned/*/log.jsonl")} == journals
    first, second = (json.loads((world.path / name).read_text()) for name in ("out.json", "again.json"))
    assert second == first


@pytest.mark.parametrize("command", [("fit", "tuned"), ("plan", "tuned", "--budget", "1e12")])
def test_trials_are_no_points_of_a_law(tuned, command):
    world, _ = tuned

    refused = in_process(world, *command)

    assert refused.returncode == 2
    assert "the runs of tuned differ in optimizer.lr: they are trials of a tuning" in refused.stderr
    assert "scalelab sweep reports/tuned/recipe.yaml" in refused.stderr


def test_a_dry_run_shows_every_cell_and_writes_nothing(worlds):
    world = worlds("tuned_dry", mlflow=False)
    (world.path / "tuned.yaml").write_text(TUNING)

    done = in_process(world, "tune", "tuned.yaml", "--dry-run", "--json", "plan.json")
    plan = json.loads((world.path / "plan.json").read_text())

    assert done.returncode == 0, done.stderr
    assert "4 cells of 9 trials: 36 runs" in done.stdout
    assert len(plan["cells"]) == 4
    assert plan["cells"][0]["own"] == {"optimizer.lr": 3e-3}
    assert plan["flops_planned"] == pytest.approx(9 * sum(c["flops_of_a_trial"] for c in plan["cells"]))
    assert not world.runs.exists()
