"""What a task of `scalelab eval` is: questions with known answers, in lm-eval's words.

Not here: our own tasks (choice.py), published ones (known.py), how they are asked (harness.py).
"""

from abc import abstractmethod
from collections.abc import Sequence

from scalelab.config import Config
from scalelab.evals.harness import NamedTask, OwnTask


class Task(Config):
    """A task. Members add `kind: Literal[...]`, a `name` and their settings."""

    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Files that it names: their contents decide what is measured."""

    @abstractmethod
    def own_tasks(self) -> Sequence[tuple[OwnTask | NamedTask, str, str]]:
        """The task in lm-eval's words, its mode and its template, one for each mode.

        Raises:
            DataError: A file is missing, or a row is not as it has to be.
        """
