"""The interface of a task: questions with known answers, in lm-eval's format.

Not here: custom tasks (multiple_choice.py), published ones (benchmarks.py), the call to lm-eval
(harness.py).
"""

from abc import abstractmethod
from collections.abc import Sequence

from scalelab.config import Config
from scalelab.evals.tasks.harness import CustomTask, NamedTask


class Task(Config):
    """A task. Members add `kind: Literal[...]`, a `name` and their settings."""

    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Return the files that it names; their contents affect the result."""

    @abstractmethod
    def own_tasks(self) -> Sequence[tuple[CustomTask | NamedTask, str, str]]:
        """Return the task in lm-eval's format, its mode and its template, one for each mode.

        Raises:
            DataError: A file is missing, or a row is invalid.
        """
