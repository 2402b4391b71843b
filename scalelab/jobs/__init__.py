"""Jobs: work in a directory, carried by an executor, each done once however its processes end.

    source of jobs -> driver -> executor -> processes -> a kind's function -> result on the disk

A kind of job is one function and one line here; an executor is one file and one line.

Not here: which jobs there are, and what they do (the packages that make them).
"""

from scalelab.registry import Registry

KINDS = Registry(
    "kind of job",
    {
        "run": "scalelab.launch.training:train_run",
        "trunk": "scalelab.launch.training:train_shared",
        "final": "scalelab.launch.training:train_final",
        "stage": "scalelab.posttrain.worker:run_stage",
        "evaluation": "scalelab.evals.jobs:run_measurements",
        "shards": "scalelab.launch.shards:run_shards",
        "probe": "scalelab.testing.executors:probe",
    },
    group="scalelab.jobs",
)
EXECUTORS = Registry(
    "executor",
    {
        "inline": "scalelab.jobs.executors.inline:InlineConfig",
        "local": "scalelab.jobs.executors.local:LocalConfig",
        "slurm": "scalelab.jobs.executors.slurm:SlurmConfig",
        "ray": "scalelab.jobs.executors.ray:RayConfig",
        "workers": "scalelab.jobs.executors.workers:WorkersConfig",
    },
    group="scalelab.executors",
    base="scalelab.jobs.base:ExecutorConfig",
)
