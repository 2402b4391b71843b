"""Evaluation: what a finished model can do, measured the same way for every model.

Conversations are where prompts and answers come from; judges say which of two answers is better;
measurements are the sections of an evaluation file. A member is one file and one line here.
"""

from scalelab.registry import Registry

CONVERSATIONS = Registry(
    "source of conversations",
    {
        "skills": "scalelab.evals.skilled:Skilled",
        "files": "scalelab.evals.recorded:Files",
        "hub": "scalelab.evals.recorded:HubRows",
    },
    group="scalelab.conversations",
    base="scalelab.evals.conversations:Conversations",
)
JUDGES = Registry(
    "judge",
    {
        "gold": "scalelab.evals.judges.gold:Gold",
        "reward": "scalelab.evals.judges.reward:ByReward",
        "model": "scalelab.evals.judges.model:ByModel",
        "person": "scalelab.evals.judges.person:Person",
    },
    group="scalelab.judges",
    base="scalelab.evals.judges.base:Judge",
)
TASKS = Registry(
    "task",
    {
        "choice": "scalelab.evals.choice:ChoiceTask",
        "generation": "scalelab.evals.choice:GenerationTask",
        "known": "scalelab.evals.known:KnownTask",
    },
    group="scalelab.tasks",
    base="scalelab.evals.task:Task",
)
MEASUREMENTS = Registry(
    "measurement",
    {
        "perplexity": "scalelab.evals.measurements.perplexity:PerplexityMeasurement",
        "tasks": "scalelab.evals.measurements.tasks:TasksMeasurement",
        "pairwise": "scalelab.evals.measurements.pairwise:PairwiseMeasurement",
        "contamination": "scalelab.evals.measurements.contamination:ContaminationMeasurement",
        "prediction": "scalelab.evals.measurements.prediction:PredictionMeasurement",
    },
    group="scalelab.measurements",
    base="scalelab.evals.measurements.base:Measurement",
)
