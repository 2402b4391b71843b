"""Scaling laws: formulas that predict loss, and the honest fitting of them."""

from scalelab.registry import Registry

LAWS = Registry(
    "law",
    {
        "isoflop": "scalelab.laws.isoflop.law:IsoFlopLaw",
        "chinchilla": "scalelab.laws.forms.chinchilla:Chinchilla",
        "kaplan": "scalelab.laws.forms.kaplan:Kaplan",
        "kaplan_n": "scalelab.laws.forms.kaplan_single:KaplanN",
        "kaplan_d": "scalelab.laws.forms.kaplan_single:KaplanD",
        "kaplan_steps": "scalelab.laws.forms.kaplan_steps:KaplanSteps",
        "overtrained": "scalelab.laws.forms.overtrained:Overtrained",
        "averaged": "scalelab.laws.averaged.law:Averaged",
        "softmax": "scalelab.laws.forms.softmax:Softmax",
        "repeated": "scalelab.laws.forms.repeated:Repeated",
        "bounded": "scalelab.laws.forms.bounded:Bounded",
        "experts": "scalelab.laws.forms.experts:Experts",
        "sparse": "scalelab.laws.forms.sparse:Sparse",
        "farseer": "scalelab.laws.forms.farseer:Farseer",
        "response": "scalelab.laws.forms.response:Response",
        "frontier": "scalelab.laws.isoflop.frontier:FrontierLaw",
        "kaplan_c": "scalelab.laws.isoflop.frontier:KaplanC",
        "envelope": "scalelab.laws.isoflop.envelope:Envelope",
    },
    group="scalelab.laws",
    base="scalelab.laws.base:Law",
)
