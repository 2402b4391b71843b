"""Models: what a network of a given size is, what it costs, and how it leaves the house.

An architecture is two files: its description (sizes, counts and costs; no torch, so that
planning never waits for it) and its network (the torch module).
"""

from scalelab.registry import Registry

ARCHITECTURES = Registry(
    "architecture",
    {"transformer": "scalelab.model.transformer:Transformer"},
    group="scalelab.architectures",
    base="scalelab.model.base:Architecture",
)
FAMILIES = Registry(
    "model family",
    {"transformer": "scalelab.model.transformer:Family"},
    group="scalelab.families",
)
NETWORKS = Registry(
    "network",
    {"transformer": "scalelab.model.transformer_net:TransformerNet"},
    group="scalelab.networks",
)
