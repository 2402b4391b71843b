"""Scaling laws: formulas that predict loss, and the honest fitting of them."""

from scalelab.registry import Registry

LAWS = Registry(
    "law",
    {
        "isoflop": "scalelab.laws.isoflop:IsoFlop",
        "chinchilla": "scalelab.laws.chinchilla:Chinchilla",
        "kaplan": "scalelab.laws.kaplan:Kaplan",
        "kaplan_n": "scalelab.laws.kaplan_single:KaplanN",
        "kaplan_d": "scalelab.laws.kaplan_single:KaplanD",
        "kaplan_steps": "scalelab.laws.kaplan_steps:KaplanSteps",
        "overtrained": "scalelab.laws.overtrained:Overtrained",
        "repeated": "scalelab.laws.repeated:Repeated",
        "frontier": "scalelab.laws.frontier:Frontier",
        "kaplan_c": "scalelab.laws.frontier:KaplanC",
        "envelope": "scalelab.laws.envelope:Envelope",
    },
    group="scalelab.laws",
    base="scalelab.laws.base:Law",
)
