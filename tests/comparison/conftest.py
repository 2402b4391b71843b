"""Simulated pairs of recipes, as arms, tables and a sweep on the disk."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

# compare.py has the simulated pairs of the calibration.
sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))

import compare as calibration

from scalelab.records.sweep_manifest import PlannedRun, SweepManifest
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult


@pytest.fixture(scope="session")
def simulated():
    """A function that makes arms of a baseline and a variant."""

    def make(m=1.0, s=0.0, t=1.0, *, seed=0, design=None, **changes):
        design = replace(design or calibration.DESIGNS[0], **changes)
        return calibration.simulated_pair(design, np.random.default_rng(seed), m=m, s=s, t=t)

    return make


@pytest.fixture(scope="session")
def table_of():
    """A function that writes the runs of an arm as a CSV table, with constant columns."""

    def write(arm, path, **constant):
        runs = arm.runs
        head = ["run", "n_params", "n_tokens", "loss", "flops_planned", "seed", "status", *constant]
        lines = [",".join(head)]
        for i in range(len(runs)):
            values = [float(v[i]) for v in (runs.N, runs.D, runs.L, runs.flops_planned)]
            cells = [
                f"r{i}",
                *map(repr, values),
                str(runs.seed[i]),
                "simulated",
                *map(str, constant.values()),
            ]
            lines.append(",".join(cells))
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def sweep_of(tmp_path):
    """A function that puts the runs of an arm on the disk as a finished sweep below runs/."""

    def write(arm, name, *, tokens=4096, source="pycode", **changes):
        root = tmp_path / "runs"
        runs, planned = arm.runs, []
        for i in range(len(runs)):
            run = f"{name}{i:03d}"
            N, D, C = int(runs.N[i]), int(runs.D[i]), float(runs.C[i])
            planned.append(
                PlannedRun(
                    run, f"{name}/{run}", float(runs.flops_planned[i]), N, N, D, D, 60, C, int(runs.seed[i])
                )
            )
            result = {
                "run": run,
                "status": "finished",
                "reason": None,
                "seed": int(runs.seed[i]),
                **dict.fromkeys(
                    ("n_params_total", "n_params_non_embedding", "n_params_matmul", "n_params_active"), N
                ),
                "flops_per_token": C / D,
                "flops": C,
                "flops_6nd": 6.0 * N * D,
                **dict.fromkeys(("n_tokens", "n_tokens_planned", "n_tokens_unique"), D),
                "n_steps": 60,
                **dict.fromkeys(("batch_tokens", "micro_batch_tokens"), 256),
                "seq_len": 32,
                "loss": float(runs.L[i]),
                "loss_se": 0.001,
                "bpb": float(runs.L[i]) / 3,
                "curve": [],
                "train_curve": [],
                "tokens_per_s": 1e5,
                "mfu": None,
                "train_s": 16.0,
                "eval_s": 1.0,
                "device": "cpu",
                "precision": "fp32",
                "threads": 1,
                "n_resumes": 0,
                "tokenizer": "bytes",
                "data_digest": "d1",
                "versions": {},
                "finished_ms": 1_700_000_000_000,
            }
            run_dir = RunDir(root / name / run)
            run_dir.path.mkdir(parents=True)
            run_dir.write_result(RunResult(**(result | changes)))
        config = (
            f"name: {name}\nrecipe:\n  data:\n    source: {{kind: {source}}}\n  seq_len: 32\n"
            f"  evaluation: {{tokens: {tokens}}}\n"
        )
        SweepManifest(
            name, "abc", "total", "Which?", "the first", None, config, 1_700_000_000_000, tuple(planned)
        ).write(root)

    return write
