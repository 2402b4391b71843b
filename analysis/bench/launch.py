"""Whether a launched run is as fast as the sweep's run of the same spec. Exit 0 either way.

    python analysis/bench/launch.py [--rounds 5]

The same spec of the embedded default's recipe is trained in turn as a run of a sweep and as a
launched run of one process (its losses watched step by step, its checkpoints written by torch's
distributed writer beside the training), on one thread in this process. Checkpoints are asked for
every 2 s, far more often than by default (15 s at the least), so that their cost shows. CPU seconds
are compared, which other work on the machine hardly moves; wall seconds stand beside them.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from scalelab.data.corpus.shards import prepare
from scalelab.hardware.device import use_threads
from scalelab.sweep.file import SweepFile
from scalelab.train.loop import LaunchOptions, train
from scalelab.train.run_directory import RunDir

SWEEP = Path(__file__).parents[2] / "sweeps" / "isoflop.yaml"
N_PARAMS, N_TOKENS = 2e5, 2.5e5
LIMIT = 1.03


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=5)
    rounds = asked.parse_args().rounds
    use_threads(1)
    file = SweepFile.load(SWEEP, ["recipe.evaluation.curve_points=0"])
    corpus = prepare(file.recipe.data)
    model = file.recipe.model_at(N_PARAMS, corpus.vocab_size)
    spec = file.recipe.spec(model, N_TOKENS, data_digest=corpus.digest, seed=0)
    ways = {"sweep": None, "launched": LaunchOptions(), "often": LaunchOptions(checkpoint_s=2.0)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    losses = set()
    for i in range(rounds + 1):
        order = list(ways.items())
        for name, launched in order[i % 3 :] + order[: i % 3]:
            with tempfile.TemporaryDirectory() as directory:
                run_dir = RunDir(Path(directory) / spec.id)
                run_dir.create(spec)
                cpu = time.process_time()
                result = train(run_dir, launched=launched)
                cpu = time.process_time() - cpu - result.eval_s
            losses.add(result.loss)
            if i:  # the first round warms caches
                seconds[name].append((cpu, result.train_s))
    assert len(losses) == 1, f"the losses differ: {losses}"
    for name, pairs in seconds.items():
        cpu, wall = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{name:<9} {cpu:6.2f} CPU s, {wall:6.2f} s, {spec.n_tokens / wall:8.0f} tokens/s")
    ratios = {
        name: statistics.median(
            mine[0] / theirs[0] for mine, theirs in zip(pairs, seconds["sweep"], strict=True)
        )
        for name, pairs in seconds.items()
        if name != "sweep"
    }
    verdict = "reached" if ratios["launched"] <= LIMIT else "NOT reached"
    print(f"launched over sweep {ratios['launched']:.3f}, limit {LIMIT}: {verdict}")
    print(f"with a checkpoint every 2 s {ratios['often']:.3f}")
    print(
        json.dumps(
            {"what": "CPU s of a launched run over the sweep's", "unit": "ratio"}
            | {"value": round(ratios["launched"], 4), "limit": LIMIT}
            | {"checkpoint_every_2s": round(ratios["often"], 4), "rounds": rounds}
        )
    )


if __name__ == "__main__":
    main()
