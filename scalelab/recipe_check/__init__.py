"""Checks of a recipe by short runs: does it scale with width, transfer its rate, follow the token horizon?"""

from scalelab.registry import Registry

RECIPE_CHECKS = Registry(
    "recipe check",
    {
        "coordinate": "scalelab.recipe_check.members.coordinate:CoordinateCheck",
        "transfer": "scalelab.recipe_check.members.transfer:TransferCheck",
        "horizon": "scalelab.recipe_check.members.horizon:HorizonCheck",
    },
    group="scalelab.recipe_checks",
    base="scalelab.recipe_check.base:RecipeCheck",
)
"""Checks of `scalelab check-recipe`, in the order in which they run."""
