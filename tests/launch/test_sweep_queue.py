"""`scalelab sweep --prepare`: what is queued, what is printed, and what is refused before anything is written."""

import json
import os
import shlex

import pytest

from scalelab.cli.main import main
from scalelab.jobs.queue import JobQueue
from scalelab.sweep.isoflop import IsoFlopDesign

SWEEP = """
name: Iso_flop
question: q
prediction: p
recipe:
  data: {source: {kind: text, paths: ["FOLDER/*.txt"]}, tokenizer: {kind: bytes}, validation: 0.2, epochs: 50}
  seq_len: 32
  model: {kind: transformer, n_layers: 1, head_size: 8}
  optimizer: {lr: 3e-3}
  batch: {min_tokens: 256, max_tokens: 1024}
  evaluation: {tokens: 4096, curve_tokens: 1024}
design: {kind: isoflop, budgets: [1e10, 2e10], sizes_per_budget: 3, span: 3, tokens_per_param: 14}
launch: {executor: inline}
"""


@pytest.fixture
def place(tmp_path, tiny_text, monkeypatch):
    """A shared directory with runs and cache, in which the command line is at work, and a sweep file."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.chdir(shared)
    monkeypatch.setenv("SCALELAB_CACHE", str(shared / "cache"))
    monkeypatch.setenv("SCALELAB_RUNS", str(shared / "runs"))
    (shared / "t.yaml").write_text(SWEEP.replace("FOLDER", str(tiny_text)))
    return shared


def pods(place, **changes):
    """Arguments that set the pods."""
    settings = {"image": "lab/scalelab:1", "claim": "research", "mount": str(place), "workers": 3, **changes}
    given = {name: value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in ("--set", f"launch.kubernetes.{name}={value}")]


def test_a_manifest_starts_workers_of_the_queue_that_was_written(place, capsys):
    assert main(["sweep", "t.yaml", "--prepare", "kubernetes", *pods(place)]) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    path = place / "runs/Iso_flop/kubernetes.yaml"
    content = json.loads(path.read_text())
    queue = JobQueue(place / "runs/Iso_flop")
    (container,) = content["spec"]["template"]["spec"]["containers"]

    assert last == [
        f"{len(queue.tickets())} jobs are queued. Start their workers with:",
        f"  kubectl apply -f {path}",
    ]
    assert len(queue.tickets()) == 6
    argv = container["command"]
    assert argv[:5] == ["scalelab", "worker", str(queue.home), "--token", queue.settings().token]
    assert content["spec"]["completions"] == 3
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validator.validate(content, "1.33", strict=True)


def test_the_command_of_a_pod_is_one_that_the_worker_takes(place, capsys, monkeypatch):
    assert main(["sweep", "t.yaml", "--prepare", "kubernetes", *pods(place)]) == 0
    content = json.loads((place / "runs/Iso_flop/kubernetes.yaml").read_text())
    (container,) = content["spec"]["template"]["spec"]["containers"]
    seen = []
    monkeypatch.setattr("scalelab.cli.worker.run", lambda args: seen.append(args) or 0)
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    monkeypatch.chdir(container["workingDir"])

    assert main(container["command"][1:]) == 0
    assert seen[0].directory == place / "runs/Iso_flop"
    JobQueue(seen[0].directory).check_token(seen[0].token)


@pytest.mark.parametrize(
    ("changes", "words", "fix"),
    [
        ({"image": None}, "launch.kubernetes.image is not set", "--set launch.kubernetes.image=..."),
        ({"claim": None}, "launch.kubernetes.claim is not set", "--set launch.kubernetes.claim=..."),
        ({"mount": None}, "launch.kubernetes.mount is not set", "--set launch.kubernetes.mount=..."),
        ({"mount": "/elsewhere"}, "the directory of runs is not on the volume", "set SCALELAB_RUNS to a"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_pods_could_not_use_is_refused_before_anything_is_written(place, changes, words, fix, capsys):
    assert main(["sweep", "t.yaml", "--prepare", "kubernetes", *pods(place, **changes)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert fix in err
    assert sorted(os.listdir(place)) == ["t.yaml"]


def test_a_cache_that_is_not_on_the_volume_is_refused_before_anything_is_written(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "own"))
    assert main(["sweep", "t.yaml", "--prepare", "kubernetes", *pods(place)]) == 2
    err = capsys.readouterr().err
    assert f"prepared corpora is not on the volume that is mounted at {place}" in err
    assert "set SCALELAB_CACHE to a" in err
    assert sorted(os.listdir(place)) == ["t.yaml"]


def test_an_adaptive_design_cannot_be_prepared(place, capsys, monkeypatch):
    monkeypatch.setattr(IsoFlopDesign, "adaptive", True)
    assert main(["sweep", "t.yaml", "--prepare", "kubernetes", *pods(place)]) == 2
    err = capsys.readouterr().err
    assert "chooses runs from results, so they cannot all be queued" in err
    assert not (place / "runs").exists()


def test_workers_are_prepared_with_a_command(place, capsys):
    assert main(["sweep", "t.yaml", "--prepare"]) == 0
    argv = shlex.split(capsys.readouterr().out.splitlines()[-1])
    queue = JobQueue(place / "runs/Iso_flop")
    assert argv == ["scalelab", "worker", str(queue.home), "--token", queue.settings().token]
    assert not (queue.home / "kubernetes.yaml").exists()
