"""`scalelab fit` of a table of mixtures: the recommendation, its page and JSON, and what is refused."""

import json

import numpy as np
import observe
import pytest
from in_process import in_process

from scalelab.records.mixture_runs import is_mixture_sweep
from scalelab.testing.mixture_laws import planted

DOMAINS = ("web", "code", "books", "math")


@pytest.fixture
def world(tmp_path):
    world = observe.World(tmp_path / "world", tmp_path / "cache")
    world.forget_mlflow()
    return world


def write(world, name="mixed.csv", n=18, sizes=("10M",), extra=None):
    """A table of planted runs; at each further size the losses are a tenth lower."""
    runs = planted(n=n, noise=0.001)
    head = [f"weight_{d}" for d in DOMAINS] + [f"loss_{d}" for d in DOMAINS] + ["group", *(extra or {})]
    lines = [",".join(head)]
    for s, size in enumerate(sizes):
        for i in range(n):
            cells = [
                *map(repr, runs.weights[i].tolist()),
                *map(repr, (0.9**s * runs.losses[i]).tolist()),
                size,
            ]
            lines.append(",".join([*cells, *(value(i) for value in (extra or {}).values())]))
    (world.path / name).write_text("\n".join(lines) + "\n")
    return runs


def test_a_table_of_mixtures_gets_a_recommendation(world):
    runs = write(world, sizes=("10M", "100M"), extra={"split": lambda i: "test" if i > 13 else "train"})

    done = in_process(world, "fit", "mixed.csv", "--replicates", "40", "--json", "found.json")

    assert done.returncode == 0, done.stderr
    assert "The recommended mixture is better than the natural one at 100M" in done.stdout
    found = json.loads((world.path / "found.json").read_text())
    assert found == json.loads((world.path / "reports/mixed-mixture/mixture.json").read_text())
    best = found["recommendations"]["100M"]
    assert sum(one["share"] for one in best["weights"].values()) == pytest.approx(1)
    assert best["gain_interval"][0] > 0
    assert best["natural_loss"] - best["loss"] == pytest.approx(best["gain"])
    assert found["errors_on"] == dict.fromkeys(("10M", "100M"), "held-out mixtures")
    assert found["errors"]["10M"]["log_log"] < 0.005 < found["errors"]["10M"]["nearest"]
    assert [t["chosen_at"] for t in found["transfers"]] == ["10M", "100M"]
    assert np.allclose([one["natural"] for one in best["weights"].values()], runs.weights[:14].mean(axis=0))
    assert "domain" in (world.path / "reports/mixed-mixture/README.md").read_text()


def test_repetition_and_the_natural_mixture_are_stated(world):
    write(world)

    done = in_process(
        world, "fit", "mixed.csv", "--law", "mixture", "--replicates", "20", "--json", "found.json",
        "--natural", "web=3,code=1", "--unique-tokens", "web=1e6", "--train-tokens", "4e7",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    best = json.loads((world.path / "found.json").read_text())["recommendations"]["10M"]
    assert best["weights"]["web"]["natural"] == 0.75
    assert best["weights"]["web"]["share"] <= 4.434 / 40 + 1e-3
    assert best["epochs"]["web"] == pytest.approx(40 * best["weights"]["web"]["share"])


@pytest.mark.parametrize(
    ("change", "argv", "said"),
    [
        ((), ("--natural", "web"), "--natural holds 'web'"),
        ((), ("--natural", "prose=1"), "'prose' is no domain"),
        ((), ("--unique-tokens", "web=1e6"), "unique tokens are given without training tokens"),
        ((), ("--law", "mixture", "--law", "kaplan"), "--law mixture cannot be combined"),
        (("weight_web", "w"), ("--law", "mixture"), "the shares sum to"),
        (("loss_", "l_"), ("--law", "mixture"), "4 columns of shares and 0 of losses"),
        ((",10M", ",x"), ("--natural", "web=x"), "--natural holds 'web=x'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, argv, said, world):
    write(world)
    path = world.path / "mixed.csv"
    if change:
        path.write_text(path.read_text().replace(*change))

    done = in_process(world, "fit", "mixed.csv", "--replicates", "10", *argv)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cell_that_is_no_number_is_named_with_its_line(world):
    write(world)
    path = world.path / "mixed.csv"
    lines = path.read_text().splitlines()
    lines[3] = "abc" + lines[3][lines[3].index(",") :]
    path.write_text("\n".join(lines))

    done = in_process(world, "fit", "mixed.csv")

    assert done.returncode == 2
    assert "weight_web holds 'abc', no number" in done.stderr
    assert "line 4" in done.stderr


def test_too_few_mixtures_are_refused(world):
    write(world, n=5)

    done = in_process(world, "fit", "mixed.csv")

    assert done.returncode == 2
    assert "5 mixtures are too few for LogLog: 4 domains need 6" in done.stderr
    assert "3 to 5 for each domain" in done.stderr


SWEEP = """
name: mixed
question: Which share of each domain is best?
prediction: About half of each.
recipe:
  data:
    source:
      kind: mix
      names: [words, digits]
      parts:
        - {kind: text, paths: [words.txt], document: line}
        - {kind: text, paths: [digits.txt], document: line}
    tokenizer: bytes
    validation: 0.2
    epochs: 100
  seq_len: 16
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}
  optimizer: {lr: 1e-2}
  batch: {coefficient: 64, exponent: 0, min_tokens: 64, max_tokens: 64}
  min_steps: 2
  evaluation: {tokens: 256, curve_points: 0, curve_tokens: 64}
  precision: fp32
design: {kind: mixture, sizes: [5000], n_tokens: 2560, mixtures_per_domain: 3, small_proxies: true}
launch: {executor: inline}
"""


def write_domains(folder):
    """Write a file of words and one of digits."""
    rng = np.random.default_rng(0)
    for name, letters in (("words", "abcdefgh"), ("digits", "01234567")):
        lines = ["".join(rng.choice(list(letters), 60)) + f" {i}" for i in range(60)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_a_sweep_of_mixtures_is_trained_and_fitted(world):
    write_domains(world.path)
    (world.path / "mixed.yaml").write_text(SWEEP)

    done = in_process(world, "sweep", "mixed.yaml")
    fitted = in_process(world, "fit", "mixed", "--replicates", "20", "--json", "found.json")

    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in (world.runs / "mixed").glob("*/result.json")]
    assert len(results) == 6
    assert all({*one["domain_losses"]} == {"words", "digits"} for one in results)
    assert len({one["data_digest"] for one in results}) == 1
    assert fitted.returncode == 0, fitted.stderr
    found = json.loads((world.path / "found.json").read_text())
    (best,) = found["recommendations"].values()
    assert sum(one["share"] for one in best["weights"].values()) == pytest.approx(1)
    assert best["epochs"].keys() == {"words", "digits"}
    assert found["left_out"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((", small_proxies: true", ""), "ranks correlate .73 at 1M parameters and .89 at 15M"),
        (("      names: [words, digits]\n", ""), "the source has no named domains"),
        (("    epochs: 100", "    epochs: 100\n    weights: {words: 1}"), "the recipe fixes the weights"),
        (
            (
                "    epochs: 100",
                "    epochs: 100\n    held_out: {kind: text, paths: [words.txt], document: line}",
            ),
            "the held-out text has no domains",
        ),
        (("mixtures_per_domain: 3", "mixtures_per_domain: 2"), "greater than or equal to 3"),
        (("mixtures_per_domain: 3", "lowest: 0.49, mixtures_per_domain: 6"), "less than or equal to 5"),
    ],
)
def test_a_design_that_measures_no_mixture_is_refused(change, said, world):
    for name in ("words", "digits"):
        (world.path / f"{name}.txt").write_text("".join(f"{name} line {i}\n" for i in range(40)))
    (world.path / "mixed.yaml").write_text(SWEEP.replace(*change))

    done = in_process(world, "sweep", "mixed.yaml", "--dry-run")

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_domain_that_holds_nothing_out_is_refused_before_anything_is_trained(world):
    """Its file is one document, which is trained on."""
    write_domains(world.path)
    (world.path / "mixed.yaml").write_text(SWEEP.replace("[words.txt], document: line", "[words.txt]"))

    done = in_process(world, "sweep", "mixed.yaml")

    assert done.returncode == 2
    assert "the domain words has 0 held-out tokens" in done.stderr
    assert not [*world.runs.glob("mixed/*/log.jsonl")]


def test_an_ordinary_sweep_on_one_mixture_is_not_fitted_as_one_of_mixtures(world):
    write_domains(world.path)
    ladder = "design: {kind: ladder, sizes: [5000], tokens: [1280, 2560]}\n"
    text = SWEEP.replace("    epochs: 100", "    epochs: 100\n    weights: {words: 0.5, digits: 0.5}")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("design:"))
    (world.path / "ladder.yaml").write_text(text.replace("name: mixed", "name: ladder") + "\n" + ladder)

    done = in_process(world, "sweep", "ladder.yaml")

    assert done.returncode == 0, done.stderr
    assert not is_mixture_sweep(world.runs, "ladder")
