"""Conformance of tasks of `scalelab eval`: members of TASKS, of any package."""

from collections.abc import Mapping
from typing import Any

from scalelab.config import parse_yaml
from scalelab.evals import TASKS
from scalelab.evals.tasks.base import Task


def check_task(settings: Mapping[str, Any]) -> Task:
    """Check the contract of a task, and return it.

    Args:
        settings: As an evaluation file gives them, `kind` included.

    Raises:
        AssertionError: It does not survive YAML, has no name, or describes other work the second time.
    """
    member = TASKS[settings["kind"]]
    task = member.model_validate(dict(settings))
    again = member.parse(parse_yaml(task.to_yaml(), "conformance.yaml"))
    assert again == task, "its fields do not survive YAML"
    assert task.kind == settings["kind"], f"its kind is {task.kind!r}"
    assert task.name, "it has no name"
    files = task.files()
    assert all(isinstance(path, str) for path in files), f"files are paths as text: {files!r}"
    work = list(task.own_tasks())
    assert work, "it asks nothing"
    for asked, mode, template in work:
        assert asked.name, "a task of lm-eval without a name"
        assert mode, "a mode without a name"
        assert isinstance(template, str), f"a template is text: {template!r}"
    again_work = list(task.own_tasks())
    assert [(a.name, m, t) for a, m, t in work] == [(a.name, m, t) for a, m, t in again_work], (
        "it describes other work the second time"
    )
    return task
