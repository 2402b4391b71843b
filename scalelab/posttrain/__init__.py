"""Post-training: turn a base model into an assistant in stages and account for their cost.

A stage is one file and one line here. Its config names its inputs; its job runs step by step in
the loop (loop.py).
"""

from scalelab.registry import Registry

STAGES = Registry(
    "stage",
    {
        "sft": "scalelab.posttrain.stages.sft:Sft",
        "preferences": "scalelab.posttrain.stages.preferences:Preferences",
        "reward": "scalelab.posttrain.stages.reward:Reward",
        "dpo": "scalelab.posttrain.stages.dpo:Dpo",
        "ppo": "scalelab.posttrain.stages.ppo:Ppo",
        "rloo": "scalelab.posttrain.trl.online:Rloo",
        "grpo": "scalelab.posttrain.trl.online:Grpo",
        "best_of": "scalelab.posttrain.stages.best_of:BestOf",
        "grade": "scalelab.posttrain.stages.grade:Grade",
    },
    group="scalelab.stages",
    base="scalelab.posttrain.base:Stage",
)
