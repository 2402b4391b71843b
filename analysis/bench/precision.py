"""Whether bf16 comes to the same loss as fp32, within seed noise. Exit 1 when it does not.

    python analysis/bench/precision.py

Trains a middle size of the embedded default's recipe through scalelab.train.loop.train, three
seeds in each precision, in a directory that is thrown away; the prepared corpus stays in the
cache. Prints a table, then one JSON object. Losses are in nats per token, on the recipe's own
validation tokens. Agreement: |difference of means| at most one standard deviation over seeds
(pooled over both precisions); more than two is a failure.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import math
import statistics
import sys
import tempfile
from pathlib import Path

from scalelab.data.corpus.shards import prepare
from scalelab.hardware.device import use_threads
from scalelab.sweep.file import SweepFile
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir

RECIPE = SweepFile.load(Path(__file__).parents[2] / "sweeps" / "isoflop.yaml", []).recipe
N_PARAMS, N_TOKENS = 1e5, 1.2e6  # about 20 s a run on one core
SEEDS = (0, 1, 2)
PRECISIONS = ("fp32", "bf16")


def main() -> int:
    use_threads(1)
    corpus = prepare(RECIPE.data)
    model = RECIPE.model_at(N_PARAMS, corpus.vocab_size)
    losses: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as directory:
        for seed in SEEDS:
            for precision in PRECISIONS:
                spec = RECIPE.spec(model, N_TOKENS, data_digest=corpus.digest, seed=seed)
                spec = spec.model_copy(update={"precision": precision})
                run_dir = RunDir(Path(directory) / spec.id)
                run_dir.create(spec)
                result = train(run_dir)
                assert result is not None  # nobody asks it to stop
                assert result.loss is not None, result.reason
                losses[precision].append(result.loss)
                seconds[precision].append(result.train_s)
                print(f"{precision} seed {seed}: loss {result.loss:.4f}, {result.train_s:.1f} s")
    mean = {precision: statistics.mean(values) for precision, values in losses.items()}
    sd = {precision: statistics.stdev(values) for precision, values in losses.items()}
    pooled = math.sqrt(statistics.mean(s**2 for s in sd.values()))
    difference = mean["bf16"] - mean["fp32"]
    for precision in PRECISIONS:
        print(f"{precision}: mean {mean[precision]:.4f}, seed sd {sd[precision]:.4f}")
    agrees, fails = abs(difference) <= pooled, abs(difference) > 2 * pooled
    word = "within" if agrees else "NOT within"
    print(f"bf16 - fp32: {difference:+.4f}, {word} the seed sd of {pooled:.4f}")
    print(
        json.dumps(
            {"what": "bf16 against fp32", "shape": f"{model.n_layers}x{model.d_model}"}
            | {"n_steps": spec.n_steps, "batch_tokens": spec.batch_tokens, "losses": losses}
            | {"difference": difference, "seed_sd": pooled, "agrees": agrees, "ok": not fails}
            | {"train_s": {p: round(statistics.mean(s), 2) for p, s in seconds.items()}}
        )
    )
    return 1 if fails else 0


if __name__ == "__main__":
    sys.exit(main())
