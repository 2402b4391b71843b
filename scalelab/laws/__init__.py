"""Scaling laws: formulas that predict loss, and the honest fitting of them."""

from scalelab.registry import Registry

LAWS = Registry(
    "law",
    {
        "isoflop": "scalelab.laws.isoflop:IsoFlop",
        "chinchilla": "scalelab.laws.chinchilla:Chinchilla",
    },
)
