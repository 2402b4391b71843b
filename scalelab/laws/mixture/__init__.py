"""Mixture laws: the loss of each domain from the shares of the domains in the training text."""

from scalelab.registry import Registry

MIXTURE_LAWS = Registry(
    "mixture law",
    {
        "log_log": "scalelab.laws.mixture.log_log:LogLog",
        "linear": "scalelab.laws.mixture.linear:Linear",
        "nearest": "scalelab.laws.mixture.nearest:Nearest",
        "mean": "scalelab.laws.mixture.nearest:Mean",
    },
    group="scalelab.mixture_laws",
    base="scalelab.laws.mixture.base:MixtureLaw",
)
