"""A queue of jobs for Kubernetes: the manifest of an Indexed Job whose pods are `scalelab worker`.

    queue of a sweep -> manifest -> kubectl apply -> pods -> claims of jobs in the shared directory

Any number of pods share the work: each takes what is open, and what a pod leaves behind that was evicted or
whose node is gone, another one resumes. A pod ends when the queue is empty. One that finds something that a
person has to fix (exit status 2) ends the Job; evictions do not count as failures.

The directories of all runs and of corpora have to be on a volume that is mounted at the same path in the
pods as here.

Source: Kubernetes' reference of batch/v1 Job (completionMode, podFailurePolicy).
Not here: creating the Job (kubectl, or Kueue by its label), the queue (queue.py).
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from scalelab.config import Config, Count, Positive, Whole
from scalelab.errors import LaunchError
from scalelab.jobs.queue import JobQueue

SAVE_S = 300
"""Seconds that a pod has to save its runs after it was asked to end."""
TRIES = 10
"""Failures after which the Job is given up, for each pod."""


class KubernetesSettings(Config):
    """Pods of a Job, for `scalelab sweep FILE --prepare kubernetes`."""

    image: str | None = None
    """Container image with this version of scalelab. Example: registry.lab/scalelab:1.4."""
    claim: str | None = None
    """Name of the PersistentVolumeClaim that holds the directory of all runs. Example: research."""
    mount: str | None = None
    """Path at which that volume is mounted, here and in the pods. Example: /shared."""
    namespace: str | None = None
    """Namespace of the Job. None: that of kubectl's context."""
    workers: Count = 4
    """Number of pods."""
    gpus: Whole = 1
    """GPUs of each pod (nvidia.com/gpu)."""
    cpus: Positive = 4.0
    """CPU cores that each pod requests."""
    memory_gib: Positive = 16.0
    """Memory that each pod requests, GiB."""
    queue: str | None = None
    """Local queue of Kueue that admits the Job. None: it starts at once."""


def manifest(settings: KubernetesSettings, queue: JobQueue, token: str, cache: Path) -> dict[str, Any]:
    """Return the manifest of a Job that runs the workers of a queue. JSON types.

    Args:
        settings: Image, volume and resources of the pods.
        queue: The queue of a sweep.
        token: Its token, by which a worker knows the directory.
        cache: Directory of prepared corpora.

    Raises:
        LaunchError: A setting is missing, or a directory is not on the volume.
    """
    for name in ("image", "claim", "mount"):
        if not getattr(settings, name):
            raise LaunchError(
                f"launch.kubernetes.{name} is not set",
                where="--prepare kubernetes",
                fix=f"add it to the sweep file, or use --set launch.kubernetes.{name}=...",
            )
    mount = os.path.abspath(str(settings.mount))
    home = os.path.abspath(queue.home)
    for what, path, variable in (
        ("runs", home, "SCALELAB_RUNS"),
        ("prepared corpora", os.path.abspath(cache), "SCALELAB_CACHE"),
    ):
        if not Path(path).is_relative_to(mount):
            raise LaunchError(
                f"the directory of {what} is not on the volume that is mounted at {mount}",
                where=path,
                fix=f"set {variable} to a directory below {mount} and run the same command again",
            )
    name = job_name(queue.home.name)
    labels = {"app.kubernetes.io/name": "scalelab", "app.kubernetes.io/instance": name}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    if settings.queue is not None:
        metadata["labels"] = labels | {"kueue.x-k8s.io/queue-name": settings.queue}
    command = ["scalelab", "worker", home, "--token", token, "--task", "$(JOB_COMPLETION_INDEX)"]
    resources: dict[str, Any] = {
        "requests": {"cpu": f"{settings.cpus:g}", "memory": f"{settings.memory_gib:g}Gi"}
    }
    if settings.gpus:
        resources["limits"] = {"nvidia.com/gpu": settings.gpus}
    container = {
        "name": "worker",
        "image": settings.image,
        "command": command,
        "workingDir": os.path.dirname(home),
        "env": [
            {"name": "SCALELAB_RUNS", "value": os.path.dirname(home)},
            {"name": "SCALELAB_CACHE", "value": os.path.abspath(cache)},
        ],
        "resources": resources,
        "volumeMounts": [{"name": "shared", "mountPath": mount}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": SAVE_S,
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": settings.claim}}],
    }
    refused = {"containerName": "worker", "operator": "In", "values": [2]}
    evicted = {"type": "DisruptionTarget", "status": "True"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": settings.workers,
            "parallelism": settings.workers,
            "backoffLimit": TRIES * settings.workers,
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": refused},
                    {"action": "Ignore", "onPodConditions": [evicted]},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def job_name(sweep: str) -> str:
    """Return the name of a sweep's Job: lower-case letters, digits and dashes, at most 52 characters."""
    return f"scalelab-{re.sub(r'[^a-z0-9]+', '-', sweep.lower())}"[:52].strip("-")


def manifest_text(content: dict[str, Any]) -> str:
    """Return a manifest as JSON, which is YAML too."""
    return json.dumps(content, indent=2) + "\n"
