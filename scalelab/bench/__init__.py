"""Measurements of a device by `scalelab bench`: correctness, speed, memory, settings. No torch here."""

from scalelab.registry import Registry

BENCHMARKS = Registry(
    "benchmark",
    {
        "correctness": "scalelab.bench.members.correctness:CorrectnessBenchmark",
        "throughput": "scalelab.bench.members.throughput:ThroughputBenchmark",
        "settings": "scalelab.bench.members.settings:SettingsBenchmark",
        "attention": "scalelab.bench.members.attention:AttentionBenchmark",
        "compile": "scalelab.bench.members.compile:CompileBenchmark",
        "checkpoint": "scalelab.bench.members.checkpoint:CheckpointBenchmark",
        "validation": "scalelab.bench.members.validation:ValidationBenchmark",
        "several": "scalelab.bench.members.several:SeveralRunsBenchmark",
    },
    group="scalelab.benchmarks",
    base="scalelab.bench.base:Benchmark",
)
"""Benchmarks of `scalelab bench`, in the order in which they run."""
