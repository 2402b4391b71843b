"""What a person writes to ask for a sweep: a question, a recipe, a design, and how to run it."""

from scalelab.config import Config, Flops, Name, plugin
from scalelab.launch.base import LaunchConfig
from scalelab.sweep import DESIGNS
from scalelab.train.recipe import Recipe


class SweepFile(Config):
    """A sweep file. Its `name` names its directory, its MLflow experiment and its report."""

    name: Name
    question: str
    """What the sweep is to answer, in words, written before it runs."""
    prediction: str
    """What its author expects, likewise: a surprise is only one beside an expectation."""
    recipe: Recipe
    design: plugin(DESIGNS)
    target_flops: Flops | None = None
    """Training compute that the fit is extrapolated to, FLOPs. None: ten times the largest."""
    launch: LaunchConfig = LaunchConfig()
