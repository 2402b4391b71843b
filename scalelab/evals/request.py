"""A request for an evaluation: the file, the directory of runs, and a progress callback.

Not here: the file's fields (file.py), the work (evaluation_runner.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalelab.errors import ConfigError
from scalelab.evals.file import EvalFile
from scalelab.evals.measurement import MeasurementContext
from scalelab.evals.models import find_model, finished_runs
from scalelab.files import runs_directory


def _silent(text: str) -> None:
    del text


@dataclass(frozen=True)
class EvalRequest:
    """An evaluation to run."""

    file: EvalFile
    root: Path
    """Directory of all runs; rows are stored in root/NAME/evals."""
    on_progress: Callable[[str], None] = _silent
    """Called with one line for each measurement that is done."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Sequence[str] = (),
        root: Path | None = None,
        on_progress: Callable[[str], None] = _silent,
    ) -> "EvalRequest":
        """Return the request of an evaluation file.

        Args:
            path: The YAML file.
            overrides: Values that replace those of the file, such as "seed=1".
            root: Directory of all runs; None: that of this directory.
            on_progress: Called with one line for each measurement that is done.

        Raises:
            ConfigError: The file, or an override, has a value that cannot be used.
        """
        file = EvalFile.load(Path(path), list(overrides))
        return cls(file, runs_directory() if root is None else root, on_progress)

    def context(self) -> MeasurementContext:
        """Return the context of the measurements, with every model, input and sweep located.

        Raises:
            ConfigError: A model does not exist, or a sweep has no finished runs.
        """
        with self.file.located():
            return self._context()

    def _context(self) -> MeasurementContext:
        file, root = self.file, self.root
        models = {name: _model(name, text, root) for name, text in file.models.items()}
        sections = file.sections.values()
        sweeps = sorted({name for section in sections for name in section.sweeps()})
        return MeasurementContext(
            file,
            models,
            runs={name: finished_runs(root, name) for name in sweeps},
            inputs={
                one.name: models.get(one.name) or find_model(one.name, root)
                for section in sections
                for one in section.inputs()
            },
            folder=root / file.name / "evals",
            report=self.on_progress,
        )


def _model(name: str, text: str, root: Path) -> Path:
    """Return the directory of a model of the file. Raises ConfigError naming its key."""
    try:
        return find_model(text, root)
    except ConfigError as error:
        raise ConfigError(error.problem, where=f"models.{name}: {text}", fix=error.fix) from None
