"""Training: one run from its spec to its result, resumable at any moment."""

from scalelab.registry import Registry

OPTIMIZERS = Registry(
    "optimizer",
    {"adamw": "scalelab.train.optimizers.adamw:AdamW"},
    group="scalelab.optimizers",
    base="scalelab.train.optimizers.base:Optimizer",
)
FIRST_OPTIMIZER = "adamw"
"""Meant by settings that name no kind, as all were before there were others."""
RULES = Registry(
    "rule",
    {
        "batch": "scalelab.train.rules:BatchRule",
        "power": "scalelab.train.rules:Power",
    },
    group="scalelab.rules",
    base="scalelab.train.rules:Rule",
)
SCHEDULES = Registry(
    "schedule",
    {
        "wsd": "scalelab.train.schedule:WSD",
        "cosine": "scalelab.train.schedule:Cosine",
    },
    group="scalelab.schedules",
    base="scalelab.train.schedule:Schedule",
)
