"""Training: one run from its spec to its result, resumable at any moment."""

from scalelab.registry import Registry

SCHEDULES = Registry(
    "schedule",
    {
        "wsd": "scalelab.train.schedule:WSD",
        "cosine": "scalelab.train.schedule:Cosine",
    },
    group="scalelab.schedules",
    base="scalelab.train.schedule:Schedule",
)
