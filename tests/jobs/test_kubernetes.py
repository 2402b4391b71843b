"""Manifests of workers: valid for the versions of Kubernetes in use, and refused where a pod would find nothing."""

import json

import pytest

from scalelab.errors import LaunchError
from scalelab.jobs.kubernetes import KubernetesSettings, job_name, manifest, manifest_text
from scalelab.jobs.queue import JobQueue

SETTINGS = {"image": "lab/scalelab:1", "claim": "research"}


def made(folder, **settings):
    settings = KubernetesSettings(mount=str(folder), **SETTINGS | settings)
    return manifest(settings, JobQueue(folder / "runs" / "Iso_FLOP"), "a1b2", folder / "cache")


@pytest.mark.parametrize("version", ["1.31", "1.33"])
@pytest.mark.parametrize(
    "settings", [{}, {"gpus": 0, "cpus": 0.5}, {"namespace": "team", "queue": "night", "workers": 200}]
)
def test_it_is_valid(tmp_path, version, settings):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    content = json.loads(manifest_text(made(tmp_path, **settings)))

    validator.validate(content, version, strict=True)
    with pytest.raises(validator.ValidationError):
        validator.validate(
            {**content, "spec": {**content["spec"], "completions": "many"}}, version, strict=True
        )


def test_every_pod_is_a_worker_of_the_shared_directory(tmp_path):
    spec = made(tmp_path, workers=7)["spec"]
    (container,) = spec["template"]["spec"]["containers"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 7, 7)
    assert container["command"][:5] == [
        "scalelab",
        "worker",
        str(tmp_path / "runs/Iso_FLOP"),
        "--token",
        "a1b2",
    ]
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": str(tmp_path)}]
    assert {e["name"]: e["value"] for e in container["env"]} == {
        "SCALELAB_RUNS": str(tmp_path / "runs"),
        "SCALELAB_CACHE": str(tmp_path / "cache"),
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": None}, "launch.kubernetes.image is not set"),
        ({"claim": ""}, "launch.kubernetes.claim is not set"),
        ({"mount": "/elsewhere"}, "not on the volume"),
    ],
)
def test_what_a_pod_could_not_use_is_refused(tmp_path, settings, words):
    settings = KubernetesSettings.model_validate({**SETTINGS, "mount": str(tmp_path), **settings})
    with pytest.raises(LaunchError, match=words) as refused:
        manifest(settings, JobQueue(tmp_path / "runs" / "x"), "a1b2", tmp_path / "cache")
    assert len(str(refused.value).splitlines()) == 3


def test_a_corpus_that_is_not_on_the_volume_is_refused(tmp_path):
    settings = KubernetesSettings(mount=str(tmp_path / "runs"), **SETTINGS)
    with pytest.raises(LaunchError, match="prepared corpora") as refused:
        manifest(settings, JobQueue(tmp_path / "runs" / "x"), "a1b2", tmp_path / "cache")
    assert "SCALELAB_CACHE" in refused.value.fix


@pytest.mark.parametrize("sweep", ["Iso_FLOP", "a.b", "x" * 100, "trailing-"])
def test_a_name_is_one_that_kubernetes_takes(sweep):
    import re

    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job_name(sweep))
    assert len(job_name(sweep)) <= 52
