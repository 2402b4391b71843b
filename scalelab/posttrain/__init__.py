"""Post-training: from a base model to an assistant, stage by stage, each with its price.

A stage is one file and one line here: its config says what it needs, its work is done step by
step by the one loop (loop.py).
"""

from scalelab.registry import Registry

STAGES = Registry(
    "stage",
    {
        "sft": "scalelab.posttrain.sft:Sft",
        "preferences": "scalelab.posttrain.preferences:Preferences",
        "reward": "scalelab.posttrain.reward:Reward",
        "dpo": "scalelab.posttrain.dpo:Dpo",
        "ppo": "scalelab.posttrain.ppo:Ppo",
        "rloo": "scalelab.posttrain.online_trl:Rloo",
        "grpo": "scalelab.posttrain.online_trl:Grpo",
        "best_of": "scalelab.posttrain.best_of:BestOf",
        "grade": "scalelab.posttrain.grade:Grade",
    },
    group="scalelab.stages",
    base="scalelab.posttrain.base:Stage",
)
