"""Check that the tests notice a wrong number: plant faults one at a time and run the suite.

    python analysis/mutants.py [--only CLASS] [--list] [--jobs 2] [--out analysis/mutants.md]

Each fault is an exact substitution in one file of scalelab/, made in a temporary copy of the
checkout. The tests listed for that file in FIRST run first and stop at the first failure. A fault
that they miss meets the whole quick part of the suite (everything but SLOW) before it is
reported as SURVIVED. At the end every test that caught a fault runs without faults and must pass.

Exit status: 0 when all is well; 1 for a survivor in the classes of GUARDED; 2 when the list no
longer matches the source, or a test fails without any fault.

A fault that the tests catch is no proof that they catch all others. Equivalent substitutions
(ones that change no number) do not belong in the list.
"""

import argparse
import importlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("scalelab", "tests", "sweeps", "analysis", "pyproject.toml")
GUARDED = ("rules", "counts", "memory", "prices", "FLOPs", "losses", "KL", "intervals")
"""Classes of which no fault may survive."""
LIMIT_S = 900
"""A test run that takes longer has hung, and the fault counts as caught."""

SLOW = (
    "tests/journeys",
    "tests/plugins",
    "tests/launch/test_drive.py",
    "tests/launch/test_ranks.py",
    "tests/jobs/test_executors.py",
    "tests/analysis",
    "tests/track/test_server.py",
    "tests/track/test_syncer.py",
    "tests/track/test_mirror.py",
    "tests/track/test_stages.py",
    "tests/data/test_hub.py",
    "tests/data/test_processes.py",
    "tests/laws/test_profile.py",
    "tests/posttrain/test_resume.py",
    "tests/posttrain/test_trl.py",
    "tests/report/test_painters.py",
    "tests/report/test_report.py",
    "tests/test_architecture.py",
    "tests/train/test_loop.py",
    "tests/train/test_parallel.py",
)
"""Left out of the quick part."""

FIRST = {
    "data/chat.py": "tests/data/test_chat.py",
    "data/hashing.py": "tests/data/test_hashing.py",
    "data/corpus/shards.py": "tests/data/test_text.py tests/data/test_shards.py",
    "data/corpus/minhash.py": "tests/data/test_sketches.py",
    "data/corpus/sketches.py": "tests/data/test_sketches.py",
    "data/corpus/split.py": "tests/data/test_split.py",
    "data/corpus/stream.py": "tests/data/test_stream.py",
    "evals/preference/agreement.py": "tests/evals/test_agreement.py",
    "evals/bootstrap.py": "tests/evals/test_intervals.py",
    "evals/checkpoint.py": "tests/posttrain/test_costs_and_masks.py",
    "evals/preference/pairwise.py": "tests/evals/test_pairwise.py",
    "evals/loss/perplexity.py": "tests/evals/test_intervals.py tests/evals/test_perplexity.py",
    "evals/preference/ranking.py": "tests/evals/test_ranking.py",
    "evals/tasks/scores.py": "tests/evals/test_intervals.py",
    "report/sweep/document.py": "tests/launch/test_prices.py",
    "launch/sweep_plan.py": "tests/launch/test_prices.py",
    "launch/sweep_timing.py": "tests/launch/test_timing.py",
    "laws": "tests/laws/test_tokencost.py tests/laws/test_chinchilla.py tests/laws/test_kaplan.py",
    "study/forecast.py": "tests/laws/test_interval_oracles.py",
    "study/holdout.py": "tests/laws/test_interval_oracles.py",
    "laws/uncertainty/bootstrap.py": "tests/laws/test_interval_oracles.py",
    "laws/isoflop/law.py": "tests/laws/test_interval_oracles.py tests/laws/test_isoflop.py",
    "laws/forms/repeated.py": "tests/laws/test_repeated.py",
    "laws/uncertainty/model_uncertainty.py": (
        "tests/laws/test_interval_oracles.py tests/laws/test_structural.py"
    ),
    "laws/token_cost.py": "tests/laws/test_tokencost.py",
    "laws/isoflop/valley.py": "tests/laws/test_isoflop.py",
    "model": "tests/model/test_counts.py tests/model/test_transformer.py",
    "model/transformer/config.py": "tests/model/test_counts.py tests/plan/test_memory.py",
    "model/scalar_net.py": "tests/posttrain/test_costs_and_masks.py",
    "plan/choose/allocate.py": "tests/plan/test_interval_oracles.py tests/plan/test_allocate.py",
    "plan/forecast/band.py": "tests/plan/test_interval_oracles.py tests/plan/test_band.py",
    "plan/cost/budget.py": "tests/plan/test_prices.py tests/plan/test_budget.py",
    "plan/choose/inference_cost.py": "tests/plan/test_prices.py tests/plan/test_constrained.py",
    "plan/cost/price.py": "tests/plan/test_prices.py tests/plan/test_cost.py tests/plan/test_project_cost.py",
    "plan/choose/inference_demand.py": "tests/plan/test_demand.py",
    "plan/plan.py": "tests/plan/test_final.py",
    "plan/forecast/frozen.py": "tests/plan/test_interval_oracles.py tests/plan/test_frozen.py",
    "plan/cost/resources.py": "tests/report/test_prices.py tests/report/test_plan_command.py",
    "plan/cost/training_time.py": "tests/plan/test_training_time.py tests/plan/test_prices.py",
    "plan/cost/availability.py": "tests/plan/test_project_cost.py",
    "plan/cost/staff.py": "tests/plan/test_project_cost.py",
    "plan/cost/placement.py": "tests/plan/test_training_time.py",
    "plan/cost/layout_estimate.py": "tests/plan/test_layout.py tests/plan/test_layout_bytes.py",
    "plan/forecast/ledger.py": "tests/plan/test_interval_oracles.py tests/plan/test_ledger.py",
    "plan/cost/memory.py": "tests/plan/test_layout_bytes.py tests/plan/test_memory.py",
    "plan/cost/rates.yaml": "tests/plan/test_prices.py",
    "hardware/datasheets.py": "tests/plan/test_prices.py tests/test_accelerators.py",
    "posttrain/stage_cost.py": "tests/posttrain/test_costs_and_masks.py",
    "posttrain/base.py": "tests/train/test_steps.py",
    "posttrain/stages/best_of.py": (
        "tests/posttrain/test_costs_and_masks.py tests/posttrain/test_preferences.py"
    ),
    "posttrain/stages/dpo.py": (
        "tests/posttrain/test_costs_and_masks.py tests/posttrain/test_preferences.py"
    ),
    "posttrain/losses.py": "tests/posttrain/test_losses.py",
    "posttrain/networks.py": "tests/train/test_steps.py",
    "posttrain/batch_order.py": "tests/posttrain/test_batch_order.py",
    "posttrain/pairs.py": "tests/posttrain/test_preferences.py",
    "posttrain/stages/ppo.py": "tests/posttrain/test_costs_and_masks.py tests/posttrain/test_ppo.py",
    "posttrain/stages/reward.py": (
        "tests/posttrain/test_costs_and_masks.py tests/posttrain/test_preferences.py"
    ),
    "posttrain/stages/sft.py": "tests/posttrain/test_costs_and_masks.py tests/posttrain/test_sft.py",
    "plan/cost/plan_cost.py": "tests/report/test_prices.py tests/report/test_plan_command.py",
    "posttrain/run.py": "tests/posttrain/test_costs_and_masks.py",
    "sweep/isoflop.py": "tests/sweep/test_isoflop.py",
    "train/evaluate.py": "tests/train/test_accounts.py",
    "train/loop.py": "tests/train/test_accounts.py tests/train/test_stability.py",
    "train/memory.py": "tests/train/test_memory.py",
    "train/optimizers/adamw.py": "tests/train/test_steps.py tests/train/test_recipe.py",
    "train/optimizers/base.py": "tests/train/test_memory.py",
    "train/optimizers/flat.py": "tests/train/test_steps.py",
    "train/recipe.py": "tests/train/test_recipe.py",
    "train/rules/base.py": "tests/train/test_recipe.py",
    "train/rules/batch.py": "tests/train/test_recipe.py",
    "train/schedule.py": "tests/train/test_schedule.py",
    "train/engines/single.py": "tests/train/test_steps.py",
    "train/stability.py": "tests/train/test_watch.py",
}
"""Tests that meet a fault in a file, or else in its folder, before all others."""


@dataclass(frozen=True)
class Fault:
    """One wrong line."""

    group: str
    file: str
    """Below scalelab/."""
    what: str
    """The fault in a few words."""
    old: str
    """Text that stands exactly once in the file."""
    new: str

    @property
    def path(self) -> str:
        """Below the checkout."""
        return f"scalelab/{self.file}"

    @property
    def first(self) -> list[str]:
        """Tests that run first, those that exist."""
        folder = self.file.partition("/")[0]
        named = FIRST.get(self.file) or FIRST.get(folder) or f"tests/{folder}"
        return [name for name in named.split() if (ROOT / name).exists()]


@dataclass(frozen=True)
class Verdict:
    """What became of one fault."""

    fault: Fault
    killer: str | None
    """The test that caught it; None if it survived."""
    seconds: float


FAULTS = (
    # The rules of a recipe.
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "width rule inverted",
        "narrower = self.width_ref / scale.width",
        "narrower = scale.width / self.width_ref",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "batch rule of the rate inverted",
        "(scale.batch_tokens / self.batch_ref) ** self.batch_exponent",
        "(self.batch_ref / scale.batch_tokens) ** self.batch_exponent",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "matrices ignore the batch",
        "lr_matrix=base *",
        "lr_matrix=self.lr *",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "head's rate taken from the vectors'",
        "lr_head=base * self.head_lr",
        "lr_head=base * self.vector_lr",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "vectors' rate taken from the embedding's",
        "lr_vector=base * self.vector_lr",
        "lr_vector=base * self.embedding_lr",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "embedding's rate falls with width",
        "lr_embedding=base * self.embedding_lr",
        "lr_embedding=base * narrower * self.embedding_lr",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "second beta taken from the first",
        "beta1=self.beta1,\n            beta2=self.beta2,\n            eps=self.eps,\n            weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
        "beta1=self.beta1,\n            beta2=self.beta1,\n            eps=self.eps,\n            weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "decay of the recipe ignored",
        "weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
        "weight_decay=0.1,\n            grad_clip=self.grad_clip,\n            own",
    ),
    Fault(
        "rules",
        "train/rules/batch.py",
        "batch falls with the tokens",
        "self.coefficient * scale.n_tokens**self.exponent",
        "self.coefficient / scale.n_tokens**self.exponent",
    ),
    Fault(
        "rules",
        "train/rules/batch.py",
        "batch not capped",
        "min(max(wanted, self.min_tokens), self.max_tokens)",
        "max(wanted, self.min_tokens)",
    ),
    Fault(
        "rules",
        "train/rules/batch.py",
        "batch has no lower end",
        "min(max(wanted, self.min_tokens), self.max_tokens)",
        "min(wanted, self.max_tokens)",
    ),
    Fault(
        "rules",
        "train/rules/batch.py",
        "batch rounded down, not to the nearest power",
        "round(math.log2(wanted / seq_len))",
        "math.floor(math.log2(wanted / seq_len))",
    ),
    Fault(
        "rules",
        "train/rules/base.py",
        "steps rounded up",
        "return round(self.n_tokens / self.batch_tokens)",
        "return math.ceil(self.n_tokens / self.batch_tokens)",
    ),
    Fault(
        "rules",
        "train/recipe.py",
        "rules read the tokens of a window as those of a step",
        "decided(self.optimizer, scale).at(scale)",
        "decided(self.optimizer, scale).at(scale.with_batch(self.seq_len))",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "post-training's second beta ignored",
        "lr_vector=self.lr,\n            beta2=self.beta2,",
        "lr_vector=self.lr,\n            beta2=0.95,",
    ),
    Fault(
        "rules",
        "train/optimizers/adamw.py",
        "post-training's head gets a tenth of the rate",
        "lr_head=self.lr",
        "lr_head=self.lr / 10",
    ),
    Fault(
        "rules",
        "model/transformer/config.py",
        "width of the gate rounded down",
        "-(-width * self.ff_ratio // self.ff_multiple)",
        "(width * self.ff_ratio // self.ff_multiple)",
    ),
    Fault(
        "rules",
        "model/transformer/config.py",
        "depth rounded down",
        "round(width / (self.aspect_ratio or 1))",
        "int(width / (self.aspect_ratio or 1))",
    ),
    Fault(
        "rules",
        "model/sizing.py",
        "nearest by difference, not by ratio",
        "abs(math.log(actual) - math.log(n_params))",
        "abs(actual - n_params)",
    ),
    Fault(
        "rules",
        "model/transformer/network.py",
        "matrices start by fan-out",
        "1 / math.sqrt(shape[1])",
        "1 / math.sqrt(shape[0])",
    ),
    Fault(
        "rules",
        "model/transformer/network.py",
        "residual writers start too large",
        "residual = 1 / math.sqrt(2 * config.n_layers)",
        "residual = 1 / math.sqrt(config.n_layers)",
    ),
    Fault(
        "rules",
        "train/schedule.py",
        "cooldown counted as warmup",
        "round(getattr(self, name) * n_steps)",
        "round(self.warmup * n_steps)",
    ),
    Fault(
        "rules",
        "sweep/isoflop.py",
        "tokens of a slice from the parameters, not the FLOPs",
        "tokens = budget / model.size(recipe.seq_len).flops_per_token",
        "tokens = budget / 6 / model.size(recipe.seq_len).n_params_total",
    ),
    # Schedules.
    Fault(
        "schedule",
        "train/schedule.py",
        "warmup begins at zero",
        "return (step + 1) / warm\n        left",
        "return step / warm\n        left",
    ),
    Fault(
        "schedule",
        "train/schedule.py",
        "linear cooldown ends a step early",
        "return left / cool if",
        "return (left - 1) / cool if",
    ),
    Fault(
        "schedule",
        "train/schedule.py",
        "root cooldown of what is left, not of what is done",
        "1 - math.sqrt(1 - left / cool)",
        "math.sqrt(left / cool)",
    ),
    Fault(
        "schedule",
        "train/schedule.py",
        "quarter of a cosine",
        "0.5 * (1 + math.cos(math.pi * done))",
        "math.cos(math.pi / 2 * done)",
    ),
    Fault(
        "schedule",
        "train/schedule.py",
        "cosine counted from the beginning, not from the warmup",
        "(step - warm) / max(1, n_steps - warm)",
        "step / max(1, n_steps)",
    ),
    Fault(
        "schedule",
        "train/schedule.py",
        "cosine's end added on top of the peak",
        "self.final + (1 - self.final) * 0.5",
        "self.final + 0.5",
    ),
    Fault(
        "schedule",
        "train/loop.py",
        "schedule a step ahead of the run",
        "self.engine.update(self._factor(progress.step), norm)",
        "self.engine.update(self._factor(progress.step + 1), norm)",
    ),
    Fault(
        "schedule",
        "posttrain/networks.py",
        "post-training never cools down",
        "WSD(warmup=warmup, cooldown=1 - warmup)",
        "WSD(warmup=warmup, cooldown=0.0)",
    ),
    # The optimizer.
    Fault(
        "optimizer",
        "train/optimizers/adamw.py",
        "betas swapped",
        "beta1=self.beta1,\n            beta2=self.beta2,\n            eps=self.eps,\n            weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
        "beta1=self.beta2,\n            beta2=self.beta1,\n            eps=self.eps,\n            weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
    ),
    Fault(
        "optimizer",
        "train/optimizers/adamw.py",
        "gains decay",
        'weight_decay=0.0 if role == "vector" else self.weight_decay',
        "weight_decay=self.weight_decay",
    ),
    Fault(
        "optimizer",
        "train/optimizers/adamw.py",
        "every kind at the matrices' rate",
        'getattr(self, f"lr_{role}")',
        "self.lr_matrix",
    ),
    Fault(
        "optimizer",
        "train/optimizers/flat.py",
        "schedule ignored",
        "lr=span.group.lr * factor",
        "lr=span.group.lr",
    ),
    Fault(
        "optimizer",
        "train/optimizers/flat.py",
        "small gradients blown up to the clip",
        "(most / (norm + 1e-6)).clamp_(max=1.0)",
        "(most / (norm + 1e-6))",
    ),
    Fault(
        "optimizer",
        "train/optimizers/adamw.py",
        "bias correction a step ahead",
        "full((), step - 1.0",
        "full((), step + 0.0",
    ),
    Fault(
        "optimizer",
        "train/optimizers/adamw.py",
        "epsilon of the recipe ignored",
        "eps=self.eps,\n            weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
        "eps=1e-5,\n            weight_decay=self.weight_decay,\n            grad_clip=self.grad_clip,\n            own",
    ),
    Fault(
        "optimizer",
        "train/optimizers/flat.py",
        "only the last micro-batch counts in bf16",
        "self.gradient.add_(self._working_gradient)",
        "self.gradient.copy_(self._working_gradient)",
    ),
    Fault(
        "optimizer",
        "train/optimizers/flat.py",
        "gradient kept after the update",
        "self._refresh()\n        self.gradient.zero_()",
        "self._refresh()",
    ),
    Fault("optimizer", "train/optimizers/adamw.py", "AMSGrad", "amsgrad=False", "amsgrad=True"),
    Fault(
        "optimizer",
        "model/transformer/network.py",
        "norms' gains taken for matrices",
        'return "vector" if leaf.startswith("norm") else "matrix"',
        'return "vector" if leaf == "norm" else "matrix"',
    ),
    Fault(
        "optimizer",
        "train/engines/single.py",
        "micro-batches not weighted by their rows",
        "(len(micro) / len(batch))",
        "(self.micro_rows / len(batch))",
    ),
    # FLOPs.
    Fault(
        "FLOPs",
        "model/transformer/flops.py",
        "forward pass only",
        "6.0 * n_params_matmul",
        "2.0 * n_params_matmul",
    ),
    Fault(
        "FLOPs",
        "model/transformer/flops.py",
        "attention halved for its mask",
        "12.0 * n_layers * d_attn",
        "6.0 * n_layers * d_attn",
    ),
    Fault(
        "FLOPs",
        "model/transformer/config.py",
        "attention by the model's width, not the heads'",
        "heads = self._matrices, self.n_heads * self.head_size",
        "heads = self._matrices, self.d_model",
    ),
    Fault(
        "FLOPs",
        "model/transformer/config.py",
        "attention by the key-value heads",
        "heads = self._matrices, self.n_heads * self.head_size",
        "heads = self._matrices, self.n_kv_heads * self.head_size",
    ),
    Fault(
        "FLOPs",
        "plan/plan.py",
        "6 N of all parameters, whichever are counted",
        "6.0 * size.count(param_count)",
        "6.0 * size.n_params_total",
    ),
    Fault(
        "FLOPs",
        "train/loop.py",
        "FLOPs of the planned tokens, not of those trained",
        "flops=size.flops_per_token * n_tokens",
        "flops=size.flops_per_token * spec.seq_len",
    ),
    Fault(
        "FLOPs",
        "train/loop.py",
        "6 N D without the embedding",
        "flops_6nd=6.0 * size.n_params_total",
        "flops_6nd=6.0 * size.n_params_matmul",
    ),
    Fault("FLOPs", "train/loop.py", "MFU of one device for all", "(peak * devices)", "peak"),
    Fault(
        "FLOPs",
        "evals/checkpoint.py",
        "forward pass taken for half of a step",
        "self.train_flops / 3",
        "self.train_flops / 2",
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/sft.py",
        "only the answers' tokens counted",
        "n = sum(len(example.tokens) for row in batch for example in row)",
        "n = sum(sum(example.is_answer) for row in batch for example in row)",
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/dpo.py",
        "one prompt for two answers",
        "2 * len(p.prompt) + len(p.chosen)",
        "len(p.prompt) + len(p.chosen)",
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/dpo.py",
        "reference costs as much as training",
        "self._reference_flops = n * self.start.forward_flops",
        "self._reference_flops = n * self.start.train_flops",
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/reward.py",
        "reward model's step without its way back",
        "flops=n * self.start.train_flops",
        "flops=n * self.start.forward_flops",
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/ppo.py",
        "policy's own look left out",
        '"policy": forward + self.stage.epochs * train',
        '"policy": self.stage.epochs * train',
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/ppo.py",
        "critic trained for free",
        '"critic": forward + self.stage.epochs * train',
        '"critic": forward',
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/ppo.py",
        "reward model for free",
        "0.0 if self.proxy is None else forward,",
        "0.0,",
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/best_of.py",
        "scoring for free",
        "2 * n * self.start.forward_flops",
        "n * self.start.forward_flops",
    ),
    Fault(
        "FLOPs",
        "posttrain/run.py",
        "plan's bound without the passes",
        'base["seq_len"] * passes * per_token / 3',
        'base["seq_len"] * per_token / 3',
    ),
    Fault(
        "FLOPs",
        "posttrain/stages/ppo.py",
        "PPO's bound forgets the critic's step",
        "4.0 + reward + 6.0 * self.epochs",
        "4.0 + reward + 3.0 * self.epochs",
    ),
    Fault("FLOPs", "laws/observations.py", "compute of a table is N D", "C = 6 * N * D if", "C = N * D if"),
    # Parameter and token counts.
    Fault(
        "counts",
        "model/transformer/config.py",
        "keys share their matrix with values",
        "heads = 2 * self.n_heads + 2 * self.n_kv_heads\n        return",
        "heads = 2 * self.n_heads + self.n_kv_heads\n        return",
    ),
    Fault(
        "counts",
        "model/transformer/config.py",
        "no gate in the feed-forward",
        "3 * self.d_model * self.d_ff",
        "2 * self.d_model * self.d_ff",
    ),
    Fault(
        "counts",
        "model/transformer/config.py",
        "final norm not counted",
        "self.n_layers * self._norms + self.d_model",
        "self.n_layers * self._norms",
    ),
    Fault(
        "counts",
        "model/transformer/config.py",
        "tied head counted twice",
        "vocab * (1 if self.tied else 2)",
        "vocab * 2",
    ),
    Fault(
        "counts",
        "model/transformer/config.py",
        "head left out of the products",
        "matmul = self.n_layers * block + vocab",
        "matmul = self.n_layers * block",
    ),
    Fault(
        "counts",
        "model/transformer/config.py",
        "non-embedding count has the head",
        "n_params_non_embedding=self.n_layers * block + norms",
        "n_params_non_embedding=self.n_layers * block + norms + vocab",
    ),
    Fault(
        "counts",
        "model/transformer/config.py",
        "norms of queries and keys counted once",
        "(2 * self.head_size if",
        "(self.head_size if",
    ),
    Fault(
        "counts",
        "data/corpus/stream.py",
        "unique tokens never run out",
        "return min(n_tokens, count_windows(corpus.n_train, seq_len) * seq_len)",
        "return n_tokens",
    ),
    Fault(
        "counts",
        "data/corpus/stream.py",
        "a window too many",
        "(n_tokens - 1) // seq_len",
        "(n_tokens + seq_len - 1) // seq_len",
    ),
    Fault(
        "counts",
        "data/corpus/shards.py",
        "bits per byte multiplied by the bytes",
        "loss / log(2) / self.bytes_per_token",
        "loss / log(2) * self.bytes_per_token",
    ),
    # Bytes.
    Fault(
        "memory",
        "train/optimizers/base.py",
        "one moment instead of two",
        "4 * len(self.state) * n_params",
        "4 * n_params",
    ),
    Fault(
        "memory",
        "train/memory.py",
        "working copies for free in bf16",
        '12 if precision == "bf16" else 8',
        '8 if precision == "bf16" else 8',
    ),
    Fault(
        "memory",
        "train/memory.py",
        "activations of bf16 numbers as of fp32",
        "tokens = spec.model, 2 if precision",
        "tokens = spec.model, 4 if precision",
    ),
    Fault(
        "memory",
        "train/memory.py",
        "devices filled to the brim",
        "SHARE_OF_DEVICE = 0.8",
        "SHARE_OF_DEVICE = 1.0",
    ),
    Fault(
        "memory",
        "posttrain/stage_cost.py",
        "Adam with one moment",
        'state_bytes(n_params, "fp32"',
        'state_bytes(n_params, "bf16"',
    ),
    Fault(
        "memory",
        "posttrain/stage_cost.py",
        "read-only models in bf16",
        "return 4 * sum(p.numel()",
        "return 2 * sum(p.numel()",
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "mixed precision without its fp32 copy",
        'Convention("mixed", 2, 2, 12, 2, False)',
        'Convention("mixed", 2, 2, 8, 2, False)',
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "our Adam with one moment",
        'Convention("ours", 4, 4, 8, 2, True)',
        'Convention("ours", 4, 4, 4, 2, True)',
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "one device without working copies",
        'ALONE = MemoryConvention("ours", 6, 6, 8',
        'ALONE = MemoryConvention("ours", 4, 4, 8',
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "ZeRO 2 shares the weights too",
        "2: mixed.optimizer + mixed.gradients",
        "2: mixed.optimizer + mixed.gradients + 1",
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "logits once",
        "8 * model.vocab_size / layout.tensor * tokens",
        "4 * model.vocab_size / layout.tensor * tokens",
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "every stage holds all micro-batches",
        "min(layout.pipeline - stage, layout.micro_batches)",
        "layout.micro_batches",
    ),
    Fault("memory", "plan/cost/memory.py", "gradients summed in bf16", "SUM_BYTES = 4", "SUM_BYTES = 2"),
    Fault(
        "memory", "plan/cost/memory.py", "one gathered block", "IN_FLIGHT_BLOCKS = 2", "IN_FLIGHT_BLOCKS = 1"
    ),
    Fault(
        "memory",
        "plan/cost/memory.py",
        "state not shared over a shard",
        "here = (within + beside) / layout.shard",
        "here = within + beside / layout.shard",
    ),
    Fault(
        "memory",
        "model/transformer/config.py",
        "scores of attention without their shares",
        "scores=2 * self.n_heads",
        "scores=self.n_heads",
    ),
    Fault(
        "memory",
        "model/transformer/config.py",
        "the gate's product not kept",
        "self.n_heads * self.head_size + 4 * self.d_ff",
        "self.n_heads * self.head_size + 2 * self.d_ff",
    ),
    Fault(
        "memory",
        "model/base.py",
        "logits kept in bf16",
        "block + 8 * self.vocab_size",
        "block + 4 * self.vocab_size",
    ),
    # Money, time, energy, carbon.
    Fault(
        "prices",
        "report/sweep/document.py",
        "price not multiplied by the devices",
        "cost = wall / 3600 * plan.devices.n * price",
        "cost = wall / 3600 * price",
    ),
    Fault(
        "prices",
        "report/sweep/document.py",
        "runs side by side counted one after another",
        "sum(seconds) / plan.devices.n_parallel",
        "sum(seconds)",
    ),
    Fault(
        "prices",
        "plan/cost/price.py",
        "price not multiplied by the hours",
        "None if price is None else hours * price",
        "None if price is None else price",
    ),
    Fault(
        "prices",
        "plan/cost/training_time.py",
        "hours of one device, or of all",
        "return self.flops / self.flops_per_s / 3600",
        "return self.flops / (self.devices * self.flops_per_s) / 3600",
    ),
    Fault(
        "prices",
        "plan/cost/training_time.py",
        "days of one device for all",
        "return self.flops / (self.devices * self.flops_per_s)\n",
        "return self.flops / self.flops_per_s\n",
    ),
    Fault(
        "prices", "plan/cost/price.py", "the building's own power left out", "hours * kw * pue", "hours * kw"
    ),
    Fault(
        "prices",
        "plan/cost/price.py",
        "carbon of the hours, not of the energy",
        "kwh * intensity",
        "hours * intensity",
    ),
    Fault(
        "prices",
        "plan/cost/price.py",
        "a part that is unknown counts as nothing",
        "return None if None in values else math.fsum(values)",
        "return math.fsum(v for v in values if v is not None)",
    ),
    Fault(
        "prices",
        "plan/cost/budget.py",
        "dollars times price",
        "hours = dollars / price",
        "hours = dollars * price",
    ),
    Fault(
        "prices",
        "plan/cost/budget.py",
        "a day of 24 minutes",
        "devices * days * 86400",
        "devices * days * 1440",
    ),
    Fault(
        "prices",
        "plan/choose/inference_cost.py",
        "training priced at the MFU of use",
        "3600 * peak * mfu_training",
        "3600 * peak * mfu_inference",
    ),
    Fault(
        "prices",
        "plan/choose/inference_cost.py",
        "use as dear as training",
        "cheapest(fit.params, fit.cost, loss, ratio * demand))",
        "cheapest(fit.params, fit.cost, loss, demand))",
    ),
    Fault("prices", "plan/cost/resources.py", "watts taken for kilowatts", "power / 1000", "power / 100"),
    Fault(
        "prices",
        "plan/cost/plan_cost.py",
        "failed runs counted twice",
        "flops=spent.flops - spent.lost_flops",
        "flops=spent.flops",
    ),
    Fault(
        "prices",
        "plan/cost/plan_cost.py",
        "hours of failed runs counted twice",
        "(spent.seconds - spent.lost_seconds) / 3600",
        "spent.seconds / 3600",
    ),
    Fault(
        "prices",
        "plan/cost/resources.py",
        "a FLOP's price at the peak",
        "3600 * self.accelerator.peak_flops_per_s * self.mfu.value",
        "3600 * self.accelerator.peak_flops_per_s",
    ),
    Fault(
        "prices",
        "hardware/datasheets.py",
        "H100 at its sparse peak",
        '"h100",\n        ("H100",),\n        989 * TFLOPS',
        '"h100",\n        ("H100",),\n        1979 * TFLOPS',
    ),
    Fault(
        "prices",
        "plan/cost/rates.yaml",
        "another price of an H100",
        "dollars_per_device_hour: 2.95",
        "dollars_per_device_hour: 3.95",
    ),
    Fault(
        "prices",
        "plan/cost/training_time.py",
        "a step of another time",
        "self.seconds / self.n_steps",
        "self.seconds / (1.7 * self.n_steps)",
    ),
    Fault(
        "prices",
        "plan/cost/training_time.py",
        "MFU of exact FLOPs for 6 N D",
        "COMPUTE_SHARE * computing * count_ratio",
        "COMPUTE_SHARE * computing",
    ),
    Fault(
        "prices",
        "plan/cost/availability.py",
        "no reserve for restarts",
        "(1 + self.reserve) / self.goodput",
        "1 / self.goodput",
    ),
    Fault(
        "prices",
        "plan/cost/staff.py",
        "a year of ten months",
        "self.months_of(days) / 12",
        "self.months_of(days) / 10",
    ),
    Fault(
        "prices",
        "plan/cost/price.py",
        "a range that is a point",
        "device_hours * price_range[1]",
        "device_hours * price_range[0]",
    ),
    Fault(
        "prices",
        "plan/cost/placement.py",
        "an assumed batch of any size",
        "max(rounded / rows, rows / rounded) <= BATCH_ROOM",
        "rounded",
    ),
    # Layouts.
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "bubble over the micro-batches alone",
        "(stages - 1) / (micro_batches + stages - 1)",
        "(stages - 1) / micro_batches",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "recomputing costs half",
        "compute_s / 3 if layout.recompute",
        "compute_s / 2 if layout.recompute",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "head weighs nothing in the last stage",
        "flops[-1] += head",
        "flops[-1] += 0.0",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "weights of a shard gathered once",
        "(2 * number + GRADIENT_BYTES) * params",
        "(number + GRADIENT_BYTES) * params",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "sums are sent once",
        'part["replicate"] * rounds * 2 * GRADIENT_BYTES',
        'part["replicate"] * rounds * GRADIENT_BYTES',
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "recomputation needs no sums of its own",
        "sums = 6 if layout.recompute else 4",
        "sums = 4",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "a pipeline sends one way only",
        "2 * stream * blocks.width if p > 1",
        "stream * blocks.width if p > 1",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "a window's keys sent without its values",
        "stream * 2 * blocks.keys_values",
        "stream * blocks.keys_values",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "offload without the gradient",
        "OFFLOAD_BYTES = 12",
        "OFFLOAD_BYTES = 8",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "groups beyond a node use its link",
        "within = span <= devices.per_node",
        "within = span >= 1",
    ),
    Fault(
        "layouts",
        "plan/cost/layout_estimate.py",
        "nothing hides behind computing",
        "max(0.0, sums - compute_s)",
        "sums",
    ),
    # Losses.
    Fault(
        "losses",
        "posttrain/losses.py",
        "mean over all tokens, not over those that count",
        "(x * mask).sum() / mask.sum()",
        "(x * mask).mean()",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "the worse answer gets the higher number",
        "-logsigmoid(chosen_B - rejected_B)",
        "-logsigmoid(rejected_B - chosen_B)",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "DPO without its reference for the worse answer",
        "(chosen_B - chosen_ref_B) - (rejected_B - rejected_ref_B)",
        "(chosen_B - chosen_ref_B) - (rejected_B - chosen_ref_B)",
    ),
    Fault(
        "losses", "posttrain/losses.py", "DPO without beta", "logsigmoid(beta * margin)", "logsigmoid(margin)"
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "GAE forgets gamma",
        "(surprise + gamma * lam * ahead)",
        "(surprise + lam * ahead)",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "value of the next state not discounted",
        "rewards_BT[:, t] + gamma * next_value",
        "rewards_BT[:, t] + next_value",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "value after the end counts",
        "values_BT[:, t + 1] * mask_BT[:, t + 1] if later",
        "values_BT[:, t + 1] if later",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "returns without the values",
        "(found + values_BT) * mask_BT",
        "found * mask_BT",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "PPO takes the more hopeful ratio",
        "torch.max(-advantages_BT * ratio",
        "torch.min(-advantages_BT * ratio",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "ratio clipped from below only",
        "ratio.clamp(1 - clip, 1 + clip)",
        "ratio.clamp(min=1 - clip)",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "critic's clip ignored",
        "(values_BT - old_BT).clamp(-clip, clip)",
        "(values_BT - old_BT)",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "critic's half forgotten",
        "return 0.5 * masked_mean(error, mask_BT)",
        "return masked_mean(error, mask_BT)",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "advantages spread over padding too",
        "masked_mean((x - mean) ** 2, mask).sqrt()",
        "((x - mean) ** 2).mean().sqrt()",
    ),
    Fault(
        "losses",
        "posttrain/losses.py",
        "entropy's sign",
        "return -(logps.exp() * logps).sum(-1)",
        "return (logps.exp() * logps).sum(-1)",
    ),
    Fault(
        "losses",
        "posttrain/stages/dpo.py",
        "SFT term pushes the better answer down",
        "loss = loss - self.stage.sft_weight",
        "loss = loss + self.stage.sft_weight",
    ),
    Fault(
        "losses",
        "posttrain/stages/dpo.py",
        "SFT term not per token",
        "chosen.sum() / n_chosen",
        "chosen.sum()",
    ),
    Fault(
        "losses",
        "posttrain/stages/ppo.py",
        "score at every token",
        "rewards[torch.arange(len(whole), device=device), last] += scores.to(device)",
        "rewards += scores.to(device)[:, None] * mask",
    ),
    Fault(
        "losses",
        "posttrain/stages/ppo.py",
        "cut-off answers rewarded",
        "scores - self.stage.cut_off",
        "scores + self.stage.cut_off",
    ),
    Fault(
        "losses",
        "posttrain/stages/best_of.py",
        "the best of one more draw",
        "math.comb(i, n - 1) / math.comb(m, n)",
        "math.comb(i, n) / math.comb(m, n + 1)",
    ),
    Fault(
        "losses",
        "posttrain/stages/reward.py",
        "reward read before the end token",
        "mask.sum(1).long() - 1",
        "mask.sum(1).long() - 2",
    ),
    # Kullback-Leibler.
    Fault(
        "KL",
        "posttrain/losses.py",
        "the other way round",
        "d = reference_BT - logps_BT",
        "d = logps_BT - reference_BT",
    ),
    Fault(
        "KL",
        "posttrain/losses.py",
        "k3 without its linear term",
        "return d.exp() - 1 - d",
        "return d.exp() - 1",
    ),
    Fault(
        "KL",
        "posttrain/stages/ppo.py",
        "departure from the reference rewarded",
        "rewards = -stage.kl * (logps - reference) * mask",
        "rewards = stage.kl * (logps - reference) * mask",
    ),
    Fault(
        "KL",
        "posttrain/stages/ppo.py",
        "KL of a token, not of an answer",
        "kl = ((batch.logps - batch.reference) * batch.mask).sum(1)",
        "kl = ((batch.logps - batch.reference) * batch.mask).mean(1)",
    ),
    Fault(
        "KL",
        "posttrain/stages/ppo.py",
        "KL counts the prompt",
        "kl = ((batch.logps - batch.reference) * batch.mask).sum(1)",
        "kl = (batch.logps - batch.reference).sum(1)",
    ),
    Fault(
        "KL",
        "posttrain/stages/best_of.py",
        "KL of the best of n without its share",
        "math.log(n) - (n - 1) / n",
        "math.log(n)",
    ),
    # Masks.
    Fault(
        "masks",
        "data/chat.py",
        "end of an answer not learned",
        "marks += [False, *[is_answer] * len(text)]",
        "marks += [False, *[is_answer] * (len(text) - 1), *[False] * bool(text)]",
    ),
    Fault(
        "masks",
        "data/chat.py",
        "markers of answers learned",
        "marks += [False, *[is_answer] * len(text)]",
        "marks += [is_answer] * (1 + len(text))",
    ),
    Fault(
        "masks",
        "data/chat.py",
        "questions learned",
        'is_answer = message["role"] == "assistant"',
        'is_answer = message["role"] != "system"',
    ),
    Fault(
        "masks",
        "posttrain/stages/sft.py",
        "mask a token behind its target",
        "losses.token_logps(logits, tokens[:, 1:]), counts[:, 1:]",
        "losses.token_logps(logits, tokens[:, 1:]), counts[:, :-1]",
    ),
    Fault(
        "masks",
        "posttrain/stages/sft.py",
        "packed examples see one another",
        "self.network(tokens[:, :-1], segments_BT=segments)",
        "self.network(tokens[:, :-1])",
    ),
    Fault(
        "masks",
        "posttrain/stages/dpo.py",
        "prompt counted with the answer",
        "real[i, : len(pair.prompt)] = 0",
        "real[i, : len(pair.prompt) - 1] = 0",
    ),
    Fault(
        "masks",
        "posttrain/stages/ppo.py",
        "prompt's last token trained",
        "real[i, :n] = 0",
        "real[i, : n - 1] = 0",
    ),
    Fault("masks", "model/scalar_net.py", "padding counts as real", "mask[i, : len(row)] = 1", "mask[i] = 1"),
    Fault(
        "masks",
        "evals/loss/perplexity.py",
        "the end token not predicted",
        "self.n_tokens.append(len(row) - 1)",
        "self.n_tokens.append(len(row) - 2)",
    ),
    # Intervals.
    Fault(
        "intervals",
        "laws/uncertainty/bootstrap.py",
        "one-sided ends",
        "np.quantile(values, [(1 - level) / 2, (1 + level) / 2])",
        "np.quantile(values, [1 - level, level])",
    ),
    Fault(
        "intervals",
        "laws/uncertainty/bootstrap.py",
        "one replicate beyond each end is enough",
        "< 10 - 1e-9",
        "< 1 - 1e-9",
    ),
    Fault(
        "intervals",
        "laws/uncertainty/bootstrap.py",
        "failed replicates forgotten",
        "failed = drawn.failed + int(np.sum(np.isnan(values)))",
        "failed = int(np.sum(np.isnan(values)))",
    ),
    Fault(
        "intervals",
        "laws/uncertainty/bootstrap.py",
        "nothing is drawn again",
        "rng.integers(len(each), size=len(each))",
        "rng.permutation(len(each))",
    ),
    Fault(
        "intervals",
        "laws/uncertainty/model_uncertainty.py",
        "refuted laws count",
        "if m.refuted is None and quantity in m.values",
        "if quantity in m.values",
    ),
    Fault(
        "intervals",
        "laws/uncertainty/model_uncertainty.py",
        "no law is ever refuted",
        "REFUTED = 2.0",
        "REFUTED = 2e9",
    ),
    Fault(
        "intervals",
        "laws/uncertainty/model_uncertainty.py",
        "misses of the loss, not of its logarithm",
        "np.sort(np.log(expected / runs.L) ** 2)",
        "np.sort((expected - runs.L) ** 2)",
    ),
    Fault(
        "intervals",
        "study/forecast.py",
        "the nearer end is quoted",
        "return [min(one[0], other[0]), max(one[1], other[1])]",
        "return [max(one[0], other[0]), min(one[1], other[1])]",
    ),
    Fault(
        "intervals",
        "study/forecast.py",
        "seed noise by all runs, not by those beyond the first",
        "dof = len(runs) - len(mean)",
        "dof = len(runs)",
    ),
    Fault(
        "intervals",
        "laws/isoflop/law.py",
        "noise is known exactly",
        "sigma * np.sqrt(spare / rng.chisquare(spare, size=(count, 1)))",
        "sigma * np.ones((count, 1))",
    ),
    Fault(
        "intervals",
        "laws/isoflop/law.py",
        "noise halved",
        "s.fitted + s.L * luck[:, mine]",
        "s.fitted + s.L * luck[:, mine] / 2",
    ),
    Fault(
        "intervals",
        "study/holdout.py",
        "error grows with the fold, not with its logarithm",
        "return None if c is None else c * float(np.log(max(reach, 1.0)))",
        "return None if c is None else c * max(reach, 1.0)",
    ),
    Fault(
        "intervals",
        "plan/choose/allocate.py",
        "choice of law left out of the quoted loss",
        "quoted = [min(statistical[0], moved[0]), max(statistical[1], moved[1])]",
        "quoted = statistical",
    ),
    Fault(
        "intervals",
        "plan/choose/allocate.py",
        "spread of laws not moved along",
        'end * loss / forecast.values["loss"] for end',
        "end for end",
    ),
    Fault(
        "intervals",
        "plan/forecast/band.py",
        "the final run's own scatter left out",
        "np.sqrt(1 + 1 / n)",
        "np.sqrt(1 / n)",
    ),
    Fault(
        "intervals",
        "plan/forecast/band.py",
        "one-sided quantile",
        "stdtrit(n - 1, (1 + LEVEL) / 2)",
        "stdtrit(n - 1, LEVEL)",
    ),
    Fault("intervals", "plan/forecast/band.py", "spread by n, not n - 1", "ddof=1", "ddof=0"),
    Fault(
        "intervals",
        "plan/forecast/band.py",
        "a normal quantile for few curves",
        "stdtrit(n - 1, (1",
        "stdtrit(1e9, (1",
    ),
    Fault(
        "intervals",
        "plan/forecast/band.py",
        "ends of the forecast swapped",
        "expected - (loss - interval[0]) - spread",
        "expected - (interval[1] - loss) - spread",
    ),
    Fault(
        "intervals",
        "evals/bootstrap.py",
        "one-sided ends",
        "[(1 - level) / 2, (1 + level) / 2]",
        "[1 - level, level]",
    ),
    Fault(
        "intervals",
        "evals/tasks/scores.py",
        "Wald's interval for Wilson's",
        "middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)",
        "middle = p",
    ),
    Fault(
        "intervals",
        "evals/tasks/scores.py",
        "Wilson's width without its correction",
        "np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))",
        "np.sqrt(p * (1 - p) / n)",
    ),
    Fault(
        "intervals",
        "evals/tasks/scores.py",
        "90% called 95%",
        "np.percentile(drawn, (2.5, 97.5))",
        "np.percentile(drawn, (5, 95))",
    ),
    Fault(
        "intervals",
        "evals/tasks/scores.py",
        "standard error by n",
        "np.std(values, ddof=1) / np.sqrt(n)",
        "np.std(values) / np.sqrt(n)",
    ),
    Fault(
        "intervals",
        "evals/preference/pairwise.py",
        "exact binomial one-sided",
        "far = ((1 - level) / 2) ** (1 / sample.n_prompts)",
        "far = (1 - level) ** (1 / sample.n_prompts)",
    ),
    Fault(
        "intervals",
        "evals/loss/perplexity.py",
        "not widened for few documents",
        "stats.t.ppf((1 - LEVEL) / 2, n - 1) * math.sqrt(n / (n - 1))",
        "stats.norm.ppf((1 - LEVEL) / 2)",
    ),
    Fault(
        "intervals",
        "train/evaluate.py",
        "standard deviation for the standard error",
        "float(means.std()) / math.sqrt(n)",
        "float(means.std())",
    ),
    # The ledger.
    Fault(
        "ledger",
        "plan/forecast/ledger.py",
        "error's sign",
        "error=None if judged is None else judged / frozen.loss - 1,",
        "error=None if judged is None else 1 - judged / frozen.loss,",
    ),
    Fault(
        "ledger",
        "plan/forecast/ledger.py",
        "held and missed swapped",
        '{True: "held", False: "missed", None: "unjudged"}',
        '{True: "missed", False: "held", None: "unjudged"}',
    ),
    Fault(
        "ledger",
        "plan/forecast/ledger.py",
        "diverged runs judged",
        'judged = loss if status == "finished" else None',
        "judged = loss",
    ),
    Fault(
        "ledger",
        "plan/forecast/frozen.py",
        "a miss from below is held",
        "bool(ends[0] <= loss <= ends[1])",
        "bool(loss <= ends[1])",
    ),
    Fault(
        "ledger",
        "plan/forecast/frozen.py",
        "the noise's interval for the quoted one",
        '(("quoted", self.quoted), ("statistical", self.statistical))',
        '(("quoted", self.statistical), ("statistical", self.statistical))',
    ),
    Fault(
        "ledger",
        "plan/forecast/frozen.py",
        "reach of the evidence's end",
        "reach = flops / study.fits[best.law].evidence_end",
        "reach = 1.0",
    ),
    # Identity.
    Fault(
        "identity",
        "plan/forecast/frozen.py",
        "evidence's digest ignores the losses",
        "columns |= runs.own_columns",
        'columns |= runs.own_columns; del columns["L"]',
    ),
    Fault(
        "identity",
        "plan/forecast/frozen.py",
        "evidence's digest depends on the order",
        "rows = sorted([_plain(value[i])",
        "rows = list([_plain(value[i])",
    ),
    Fault(
        "identity",
        "data/hashing.py",
        "order of a key's parts does not matter",
        "state = mix(state + np.array",
        "state = state + mix(np.array",
    ),
    # Trouble in a run.
    Fault(
        "stability",
        "train/stability.py",
        "a leap of the larger or the smaller bound",
        "max(self.rules.spike_deviations * spread, self.rules.spike_nats)",
        "min(self.rules.spike_deviations * spread, self.rules.spike_nats)",
    ),
    Fault(
        "stability",
        "train/stability.py",
        "patience of one more step",
        "self._bad >= self.rules.patience",
        "self._bad > self.rules.patience",
    ),
    Fault(
        "stability",
        "train/stability.py",
        "a gradient without a number passes",
        "math.isfinite(loss) and math.isfinite(norm)",
        "math.isfinite(loss)",
    ),
    Fault(
        "stability",
        "train/stability.py",
        "bad steps never forgiven",
        "self._losses.append(loss)\n            self._bad = 0",
        "self._losses.append(loss)",
    ),
    Fault(
        "stability",
        "train/stability.py",
        "stragglers against the fastest",
        "middle = statistics.median(seconds)",
        "middle = min(seconds)",
    ),
    Fault(
        "stability",
        "train/stability.py",
        "spread not scaled to a normal one",
        "NORMAL = 1.4826",
        "NORMAL = 1.0",
    ),
    Fault("stability", "train/loop.py", "rate never lowered", "rules.lower_rate if again else 1.0", "1.0"),
    Fault(
        "stability",
        "train/loop.py",
        "bad batches read again",
        "before.batches_passed + before.step + 1 - progress.step",
        "before.batches_passed",
    ),
    Fault(
        "stability",
        "train/loop.py",
        "divergence far above an untrained model",
        "WORSE_THAN_UNTRAINED = 1.0",
        "WORSE_THAN_UNTRAINED = 1e3",
    ),
    # Data.
    Fault(
        "data",
        "data/corpus/stream.py",
        "every epoch in the same order",
        "mix(epoch.astype(U64))",
        "mix(0 * epoch.astype(U64))",
    ),
    Fault(
        "data",
        "data/corpus/stream.py",
        "the seed decides nothing",
        "mix(key(self.seed) + mix(epoch",
        "mix(key(0) + mix(epoch",
    ),
    Fault(
        "data",
        "data/corpus/stream.py",
        "text read in its own order",
        "return permute(place, self.n_windows, keys) * self.seq_len",
        "return place * self.seq_len",
    ),
    Fault(
        "data",
        "data/corpus/stream.py",
        "windows overlap by half",
        "permute(place, self.n_windows, keys) * self.seq_len",
        "permute(place, self.n_windows, keys) * (self.seq_len // 2)",
    ),
    Fault(
        "data",
        "data/corpus/split.py",
        "twice the share held out",
        "missing = validation * float(size.sum())",
        "missing = 2 * validation * float(size.sum())",
    ),
    Fault(
        "data",
        "data/corpus/split.py",
        "near-copies on both sides",
        "return Split(held_out[cluster],",
        "return Split(np.arange(n) % 5 == 0,",
    ),
    Fault(
        "data",
        "posttrain/batch_order.py",
        "every epoch in the same order",
        "key(seed, _SALT, epoch)",
        "key(seed, _SALT, 0)",
    ),
    Fault("data", "posttrain/pairs.py", "held-out pairs trained on", "if not is_held]", "]"),
    # Laws and optima.
    Fault(
        "laws",
        "laws/forms/chinchilla.py",
        "exponents swapped",
        '{"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}',
        '{"a": alpha / (alpha + beta), "b": beta / (alpha + beta)}',
    ),
    Fault(
        "laws",
        "laws/forms/chinchilla.py",
        "optimum ignores the slope of the cost",
        "balance = np.log(alpha * A / (beta * B * s))",
        "balance = np.log(alpha * A / (beta * B))",
    ),
    Fault(
        "laws",
        "laws/solver.py",
        "no Huber: squares throughout",
        "pull = np.clip(miss, -1, 1) if surface.robust else miss\n        objective",
        "pull = miss\n        objective",
    ),
    Fault(
        "laws",
        "laws/forms/repeated.py",
        "repeats lose their worth twice as fast",
        "-(amount / unique - 1) / worth",
        "-2 * (amount / unique - 1) / worth",
    ),
    Fault(
        "laws",
        "laws/token_cost.py",
        "slope of the root term",
        "self.q * np.sqrt(N) / 2",
        "self.q * np.sqrt(N)",
    ),
    Fault(
        "laws",
        "laws/forms/kaplan.py",
        "ratio of the exponents inverted",
        "k = alpha_N / alpha_D\n    x =",
        "k = alpha_D / alpha_N\n    x =",
    ),
    Fault(
        "laws",
        "laws/isoflop/valley.py",
        "vertex on the other side",
        "return -c1 / (c2 + np.sqrt(c2**2 - 3 * c1 * c3))",
        "return c1 / (c2 + np.sqrt(c2**2 - 3 * c1 * c3))",
    ),
    Fault(
        "laws",
        "plan/choose/inference_demand.py",
        "use costs as much as training",
        "demand / (3 * tokens(share))",
        "demand / tokens(share)",
    ),
    Fault(
        "laws",
        "plan/choose/inference_demand.py",
        "use counted at 6 N",
        "2 * n_params * demand",
        "6 * n_params * demand",
    ),
)


HUNG = "hung"
WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
HEAVY = (
    "numpy",
    "scipy.interpolate",
    "scipy.optimize",
    "scipy.stats",
    "pandas",
    "pydantic",
    "ruamel.yaml",
    "tokenizers",
    "safetensors.torch",
    "torch",
    "torch._dynamo",
    "pytest",
    "_pytest.monkeypatch",
)
"""Imported once, so that a fault costs its tests and not their imports."""


class Broken(Exception):
    """The list or the suite itself is not in order."""


def check(faults: tuple[Fault, ...]) -> None:
    """Refuse faults whose text does not stand exactly once, or that leave no Python, all together.

    Raises:
        Broken: Naming each of them.
    """
    wrong = []
    for fault in faults:
        path, named = ROOT / fault.path, f"{fault.path}: {fault.what}"
        sound = path.read_text(encoding="utf-8") if path.exists() else ""
        times = sound.count(fault.old)
        if times != 1:
            wrong.append(f"{named}: stands {times} times: {fault.old!r}")
        elif fault.old == fault.new:
            wrong.append(f"{named}: changes nothing")
        elif path.suffix == ".py":
            try:
                compile(sound.replace(fault.old, fault.new), fault.path, "exec")
            except SyntaxError as error:
                wrong.append(f"{named}: no longer Python: {error}")
        if not fault.first:
            wrong.append(f"{named}: none of its tests exists")
    names = Counter((f.group, f.file, f.what) for f in faults)
    wrong += [f"{file}: {what}: listed {n} times" for (_, file, what), n in names.items() if n > 1]
    if wrong:
        raise Broken("\n".join(["the faults below do not fit the source; correct the list", *wrong]))


class Copy:
    """One copy of the checkout, in which one fault at a time is planted."""

    def __init__(self, home: Path):
        self.root = home / "checkout"
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "*.pyc")
        self.root.mkdir(parents=True)
        for name in COPIED:
            source, target = ROOT / name, self.root / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy2(source, target)
        shared = ROOT.parent / "shared"  # public tables that some tests compare with
        if shared.exists():
            (home / "shared").symlink_to(shared)
        # A changed source of the same size within one second would be taken for the old one.
        environ = os.environ | {
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.said = home / "said.txt"
        self.server = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            cwd=self.root,
            env=environ,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, tests: list[str], *more: str) -> tuple[bool, str]:
        """Whether these tests pass, and what pytest said."""
        how = ["-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "--no-header"]
        print(json.dumps([str(self.said), *how, *more, *tests]), file=self.server.stdin, flush=True)
        code = self.server.stdout.readline().strip()
        said = self.said.read_text(encoding="utf-8")
        if code == HUNG:
            return False, f"FAILED {tests[0]} (over {LIMIT_S} s)"
        if code not in ("0", "1", "2"):
            raise Broken(f"pytest ended with {code or 'the whole process'}:\n{said}")
        return code == "0", said

    def close(self) -> None:
        """End the process that runs the tests."""
        self.server.stdin.close()
        self.server.wait()

    def meet(self, fault: Fault) -> Verdict:
        """Plant a fault, run the tests, and take it out again."""
        path, begun = self.root / fault.path, time.monotonic()
        sound = path.read_text(encoding="utf-8")
        path.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
        try:
            passed, said = self.run(fault.first, "-x")
            if passed:
                passed, said = self.run(["tests"], "-x", *(f"--ignore={name}" for name in SLOW))
        finally:
            path.write_text(sound, encoding="utf-8")
        return Verdict(fault, None if passed else killer(said), time.monotonic() - begun)


def serve() -> None:
    """Run pytest in a fork for each line of arguments, after importing what all tests import.

    The product itself is not imported here: every fork reads it as it stands.
    """
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        out, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, WRITE)):
                os.dup2(os.open(path, flags, 0o644), number)
            os.dup2(1, 2)
            code = int(importlib.import_module("pytest").main(arguments))
            sys.stdout.flush()
            os._exit(code)
        ends = time.monotonic() + LIMIT_S
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < ends:
            time.sleep(0.02)
        if ended[0] == 0:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(HUNG, flush=True)
        else:
            print(os.waitstatus_to_exitcode(ended[1]), flush=True)


def killer(said: str) -> str:
    """The test that failed, or the file that could not be imported."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+\.py(?:::[^\[\s]+)?)", said, re.MULTILINE)
    if found is None:
        raise Broken(f"no failed test among what pytest said:\n{said}")
    return found[1]


def meet_all(faults: list[Fault], jobs: int, home: Path) -> list[Verdict]:
    """What became of every fault, in their order."""
    waiting: queue.SimpleQueue[tuple[int, Fault]] = queue.SimpleQueue()
    for item in enumerate(faults):
        waiting.put(item)
    found: dict[int, Verdict] = {}
    broken: list[Broken] = []

    def work(copy: Copy) -> None:
        while not broken:
            try:
                i, fault = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                verdict = found[i] = copy.meet(fault)
            except Broken as error:
                broken.append(Broken(f"{fault.path}: {fault.what}: {error}"))
                break
            caught = f"killed by {verdict.killer}" if verdict.killer else "SURVIVED"
            print(
                f"[{len(found)}/{len(faults)}] {fault.group}, {fault.file}: {fault.what}: "
                f"{caught} ({verdict.seconds:.0f} s)",
                flush=True,
            )
        copy.close()

    threads = [
        threading.Thread(target=work, args=(Copy(home / str(i)),)) for i in range(min(jobs, len(faults)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    return [found[i] for i in range(len(faults))]


def refuse_sick_tests(verdicts: list[Verdict], home: Path) -> None:
    """Refuse a test that caught a fault and fails without one.

    Raises:
        Broken: Naming those.
    """
    killers = sorted({v.killer for v in verdicts if v.killer})
    if not killers:
        return
    sound = Copy(home / "sound")
    passed, said = sound.run(killers)
    sound.close()
    if not passed:
        raise Broken(f"tests that fail without any fault:\n{said}")


def table(verdicts: list[Verdict]) -> str:
    """By class: planted, killed, survivors."""
    lines = ["| class | planted | killed | survived |", "|---|---|---|---|"]
    groups = list(dict.fromkeys(v.fault.group for v in verdicts))
    for group in groups:
        mine = [v for v in verdicts if v.fault.group == group]
        killed = sum(v.killer is not None for v in mine)
        mark = " *" if group in GUARDED else ""
        lines.append(f"| {group}{mark} | {len(mine)} | {killed} | {len(mine) - killed} |")
    killed = sum(v.killer is not None for v in verdicts)
    lines.append(f"| all | {len(verdicts)} | {killed} | {len(verdicts) - killed} |")
    return "\n".join(lines)


def survivors(verdicts: list[Verdict]) -> list[str]:
    """Each survivor with its file."""
    return [f"{v.fault.group}, {v.fault.path}: {v.fault.what}" for v in verdicts if v.killer is None]


MARK = "<!-- written by analysis/mutants.py; what stands above is written by hand -->"


def write(path: Path, verdicts: list[Verdict], seconds: float) -> None:
    """Put the result below MARK in the report, and leave what stands above it."""
    head = path.read_text(encoding="utf-8").partition(MARK)[0] if path.exists() else "# Mutants\n\n"
    said = "".join(f"\n- {line}" for line in survivors(verdicts)) or "none."
    body = (
        f"{MARK}\n\n## Result\n\n{table(verdicts)}\n\n`*`: none may survive. "
        f"{len(verdicts)} faults in {seconds / 60:.0f} minutes.\n\nSurvivors: {said}\n"
    )
    path.write_text(head + body, encoding="utf-8")


def main() -> int:
    """Run, report, and return the exit status."""
    groups = list(dict.fromkeys(fault.group for fault in FAULTS))
    parser = argparse.ArgumentParser(description="Plant faults one at a time and run the tests.")
    parser.add_argument(
        "--only",
        choices=groups,
        metavar="CLASS",
        action="append",
        help=f"plant faults of this class only; may be repeated: {', '.join(groups)}",
    )
    parser.add_argument("--list", action="store_true", help="check the list and print it")
    parser.add_argument("--jobs", type=int, default=2, help="faults at once, each in its own copy")
    parser.add_argument("--out", type=Path, help="also write the result into this report")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return 0
    faults = [fault for fault in FAULTS if args.only is None or fault.group in args.only]
    begun = time.monotonic()
    try:
        check(FAULTS)
        if args.list:
            for fault in faults:
                print(f"{fault.group:10} {fault.file:30} {fault.what}")
            print(f"{len(faults)} faults")
            return 0
        with tempfile.TemporaryDirectory(prefix="mutants-") as home:
            verdicts = meet_all(faults, args.jobs, Path(home))
            refuse_sick_tests(verdicts, Path(home))
    except Broken as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{table(verdicts)}\n* none may survive")
    for line in survivors(verdicts):
        print(f"SURVIVED: {line}")
    if args.out is not None:
        write(args.out, verdicts, time.monotonic() - begun)
    return int(any(v.killer is None and v.fault.group in GUARDED for v in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
