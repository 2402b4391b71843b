"""Training: one run from its spec to its result, resumable at any moment."""

from scalelab.registry import Registry

OPTIMIZERS = Registry(
    "optimizer",
    {"adamw": "scalelab.train.optimizers.adamw:AdamW", "muon": "scalelab.train.optimizers.muon:Muon"},
    group="scalelab.optimizers",
    base="scalelab.train.optimizers.base:Optimizer",
)
FIRST_OPTIMIZER = "adamw"
"""Meant by settings that name no kind, as all were before there were others."""
RULES = Registry(
    "rule",
    {
        "batch": "scalelab.train.rules.batch:BatchRule",
        "power": "scalelab.train.rules.power:PowerRule",
        "constant": "scalelab.train.rules.power:ConstantRule",
        "width": "scalelab.train.rules.power:WidthRule",
        "horizon": "scalelab.train.rules.power:HorizonRule",
        "steplaw_lr": "scalelab.train.rules.step_law:StepLawLr",
        "steplaw_batch": "scalelab.train.rules.step_law:StepLawBatch",
        "deepseek_lr": "scalelab.train.rules.deepseek:DeepSeekLr",
        "deepseek_batch": "scalelab.train.rules.deepseek:DeepSeekBatch",
        "delphi_lr": "scalelab.train.rules.delphi:DelphiLr",
        "delphi_beta2": "scalelab.train.rules.delphi:DelphiBeta2",
        "adamc_lr": "scalelab.train.rules.delphi:AdamCLr",
        "decay_timescale": "scalelab.train.rules.moments:DecayTimescaleRule",
        "decay_width": "scalelab.train.rules.moments:DecayWidthRule",
        "half_life": "scalelab.train.rules.moments:HalfLifeRule",
    },
    group="scalelab.rules",
    base="scalelab.train.rules.base:Rule",
)
SCHEDULES = Registry(
    "schedule",
    {"wsd": "scalelab.train.schedule:WSD", "cosine": "scalelab.train.schedule:Cosine"},
    group="scalelab.schedules",
    base="scalelab.train.schedule:Schedule",
)
