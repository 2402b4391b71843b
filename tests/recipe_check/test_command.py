"""`scalelab check-recipe` through the command line: findings, page, a second call, refusals."""

import json

import pytest

from scalelab.cli.main import main

FILE = """
name: tiny
question: Does it scale?
prediction: Yes.
recipe:
{recipe}
design: {{kind: single, n_params: 10000, n_tokens: 100000}}
launch: {{executor: inline}}
"""


@pytest.fixture
def sweep(tiny_recipe, synthetic_corpus, tmp_path, monkeypatch):
    """A sweep file in an empty directory."""
    monkeypatch.chdir(tmp_path)
    text = "\n".join(f"  {line}" for line in tiny_recipe().to_yaml().splitlines())
    (tmp_path / "tiny.yaml").write_text(FILE.format(recipe=text))
    return tmp_path


def test_a_check_writes_its_page_and_repeats_no_run(sweep, capsys):
    (sweep / "reports" / "tiny-recipe").mkdir(parents=True)
    (sweep / "reports" / "tiny-recipe" / "recipe_transfer.png").write_text("of an earlier page")
    arguments = [
        "check-recipe",
        "tiny.yaml",
        "--check",
        "coordinate",
        "--flops",
        "1.2e9",
        "--json",
        "found.json",
    ]
    status = main(arguments)
    shown = capsys.readouterr().out

    found = json.loads((sweep / "found.json").read_text())
    assert status == (1 if found["verdict"] == "fails" else 0)
    assert found["schema"] == 1
    assert found["checks"]["coordinate"]["n_runs"] == 36  # 3 widths, 4 stages, 3 seeds
    assert "d ln rms / d ln width" in shown
    assert "[measured]" not in shown
    page = (sweep / "reports" / "tiny-recipe" / "README.md").read_text()
    assert "logits, step 1" in page
    assert "recipe_coordinate.png" in page
    assert "The limit is 0.5, not 0.05" in " ".join(shown.split())
    assert (sweep / "reports" / "tiny-recipe" / "recipe_coordinate.png").read_bytes()[
        :8
    ] == b"\x89PNG\r\n\x1a\n"
    assert not (sweep / "reports" / "tiny-recipe" / "recipe_transfer.png").exists()
    before = {path: path.stat().st_mtime_ns for path in (sweep / "runs" / ".checks").rglob("result.json")}
    assert len(before) == 36

    assert main(arguments) == status

    assert {p: p.stat().st_mtime_ns for p in (sweep / "runs" / ".checks").rglob("result.json")} == before


def test_multipliers_are_printed_by_group(sweep, capsys):
    assert main(["check-recipe", "tiny.yaml", "--multipliers", "--json", "m.json"]) == 0

    shown = capsys.readouterr().out
    sizes = json.loads((sweep / "m.json").read_text())["sizes"]
    assert "Width x4, depth x1" in shown
    assert sizes[2]["groups"]["matrix"] == {"init_std": 0.5, "lr": 0.25, "weight_decay": 4, "eps": 1}
    assert sizes[2]["output"] == 0.25
    assert not (sweep / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--check", "cordinate"], "did you mean 'coordinate'?"),
        (["--flops", "-1"], "the budget of a check is -1 FLOPs"),
        (["--seeds", "1"], "seeds = 1"),
        (["--set", "recipe.param=completep"], "needs recipe.optimizer.depth_ref"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, words, sweep, capsys):
    assert main(["check-recipe", "tiny.yaml", *arguments]) == 2

    assert words in capsys.readouterr().err
    assert not (sweep / "runs").exists()
