"""Launching: turning specs into processes, and processes into results, exactly once each."""

from scalelab.registry import Registry

EXECUTORS = Registry(
    "executor",
    {
        "inline": "scalelab.launch.inline:Inline",
        "local": "scalelab.launch.local:Local",
    },
    group="scalelab.executors",
)
