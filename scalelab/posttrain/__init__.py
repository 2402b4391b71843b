"""Post-training: from a base model to an assistant, stage by stage, each with its price.

A stage is one file and one line here: its config says what it needs, its work is done step by
step by the one loop (loop.py). Conversations are where prompts and answers come from; judges
say which of two answers is better.
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
)
CONVERSATIONS = Registry(
    "source of conversations",
    {
        "skills": "scalelab.posttrain.skilled:Skilled",
        "files": "scalelab.posttrain.files:Files",
        "hub": "scalelab.posttrain.files:HubRows",
    },
)
JUDGES = Registry(
    "judge",
    {
        "gold": "scalelab.posttrain.judges:Gold",
        "reward": "scalelab.posttrain.judges:ByReward",
        "model": "scalelab.posttrain.judges:ByModel",
        "person": "scalelab.posttrain.judges:Person",
    },
)
