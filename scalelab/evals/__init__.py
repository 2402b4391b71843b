"""Evaluation: what a finished model can do, measured the same way for every model.

Conversations are where prompts and answers come from; layouts are the forms in which files hold them;
judges say which of two answers is better; measurements are the sections of an evaluation file. A member
is one file and one line here.
"""

from scalelab.registry import Registry

CONVERSATIONS = Registry(
    "source of conversations",
    {
        "skills": "scalelab.evals.conversations.skill_conversations:SkillConversations",
        "files": "scalelab.evals.conversations.file_conversations:FileConversations",
        "hub": "scalelab.evals.conversations.file_conversations:HubConversations",
    },
    group="scalelab.conversations",
    base="scalelab.evals.conversations.base:Conversations",
)
LAYOUTS = Registry(
    "layout of records",
    {
        "messages": "scalelab.evals.conversations.layouts.chat_messages:MessagesLayout",
        "prompt_completion": "scalelab.evals.conversations.layouts.prompt_completion:PromptCompletionLayout",
        "alpaca": "scalelab.evals.conversations.layouts.alpaca:AlpacaLayout",
        "sharegpt": "scalelab.evals.conversations.layouts.sharegpt:ShareGptLayout",
        "preference": "scalelab.evals.conversations.layouts.preference:PreferenceLayout",
        "implicit_prompt": "scalelab.evals.conversations.layouts.implicit_prompt:ImplicitPromptLayout",
        "hh": "scalelab.evals.conversations.layouts.hh:HhLayout",
        "kto": "scalelab.evals.conversations.layouts.kto:KtoLayout",
    },
    group="scalelab.layouts",
    base="scalelab.evals.conversations.layouts.base:RecordLayout",
)
JUDGES = Registry(
    "judge",
    {
        "gold": "scalelab.evals.preference.judges.gold:GoldJudge",
        "reward": "scalelab.evals.preference.judges.reward:RewardJudge",
        "model": "scalelab.evals.preference.judges.model:ModelJudge",
        "person": "scalelab.evals.preference.judges.person:PersonJudge",
    },
    group="scalelab.judges",
    base="scalelab.evals.preference.judges.base:Judge",
)
TASKS = Registry(
    "task",
    {
        "choice": "scalelab.evals.tasks.multiple_choice:ChoiceTask",
        "generation": "scalelab.evals.tasks.multiple_choice:GenerationTask",
        "known": "scalelab.evals.tasks.benchmarks:BenchmarkTask",
    },
    group="scalelab.tasks",
    base="scalelab.evals.tasks.base:Task",
)
MEASUREMENTS = Registry(
    "measurement",
    {
        "perplexity": "scalelab.evals.loss.measurement:PerplexityMeasurement",
        "tasks": "scalelab.evals.tasks.measurement:TasksMeasurement",
        "pairwise": "scalelab.evals.preference.measurement:PairwiseMeasurement",
        "contamination": "scalelab.evals.contamination.measurement:ContaminationMeasurement",
        "prediction": "scalelab.evals.predict.measurement:PredictionMeasurement",
    },
    group="scalelab.measurements",
    base="scalelab.evals.measurement:Measurement",
)
