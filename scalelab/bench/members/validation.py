"""Share of validation in a run: seconds of a validation loss, beside those of training.

    share = V v / (V v + D t)      V validation tokens of a run, the final loss and its curve
                                   D training tokens, TOKENS_PER_PARAM for each parameter
                                   v, t measured seconds of one token of validation and of training

v and t are measured after everything is compiled. The number of tokens is that of the workload's
evaluation, which the sweep for this type of device has too.
"""

import time
from collections.abc import Iterator

import numpy as np

from scalelab.bench.attempt import attempt_steps
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent
from scalelab.bench.steps import TrainingSteps
from scalelab.bench.workbench import SizedSpec, Workbench

TOKENS_PER_PARAM = 20
SAMPLE_TOKENS = {"cpu": 8192, "cuda": 262144}
"""Validation tokens whose seconds are measured."""
GOAL = 0.04
RATE_S = 2.0


class ValidationBenchmark(Benchmark):
    """Share of validation in a run of the reference and of the middle model."""

    title = "Validation"
    seconds = 25.0
    columns = (
        BenchColumn("validation_tokens_per_s", "validation", "tokens/s"),
        BenchColumn("tokens_per_s", "training", "tokens/s"),
        BenchColumn("validation_tokens", "of a run", "tokens", "computed"),
        BenchColumn("share", "share", "share", "computed"),
        BenchColumn("goal", "at most", "share", "assumed"),
    )
    note = f"Share of the time of a run of {TOKENS_PER_PARAM} tokens per parameter, from both measured rates."

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        for size in (bench.workload.reference, bench.workload.middle):
            yield attempt_steps(bench, bench.spec_at(size), ends, _row)


def _row(bench: Workbench, sized: SizedSpec, ends: float) -> BenchRow:
    spec = sized.spec
    n = SAMPLE_TOKENS[bench.device.kind] // spec.seq_len
    shape = (n, spec.seq_len + 1)
    windows = np.random.default_rng(0).integers(spec.model.vocab_size, size=shape, dtype=np.int64)
    steps = TrainingSteps(spec, bench.device)
    try:
        rate = steps.rate(RATE_S, ends)
        if isinstance(rate, str):
            return absent(sized.name, rate)
        steps.engine.validate(windows)  # compiled, and its memory set aside
        if time.monotonic() > ends:
            return absent(sized.name, "the time limit passed during the first validation")
        begun = time.perf_counter()
        steps.engine.validate(windows)
        validation = n * spec.seq_len / (time.perf_counter() - begun)
    finally:
        steps.close()
    training = rate.steps_per_s * spec.batch_tokens
    evaluation = spec.evaluation
    tokens = evaluation.tokens + evaluation.curve_points * evaluation.curve_tokens
    share = validation_share(tokens / validation, TOKENS_PER_PARAM * sized.n_params / training)
    values = {"validation_tokens_per_s": validation, "tokens_per_s": training, "validation_tokens": tokens}
    return BenchRow(sized.name, "measured", values | {"share": share, "goal": GOAL})


def validation_share(validation_s: float, training_s: float) -> float:
    """Return the share of validation in the seconds of both."""
    return validation_s / (validation_s + training_s)
