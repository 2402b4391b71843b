"""How fast models write, are ranked and are searched for: ratios against a peer in the same run.

    python analysis/bench/posttrain.py

writing    remembered keys and values against reading everything anew, 64 prompts, 24 new tokens
ranking    Bradley-Terry with 1,000 replicates against evalica's estimate alone (where installed)

CPU seconds on one thread, the best of three rounds. Exit status 1 where a limit is missed.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from scalelab.evals.preference.matches import Matches
from scalelab.evals.preference.ranking import bradley_terry
from scalelab.model.generate import write
from scalelab.model.transformer.config import Transformer

FASTER = 3.0
"""Times that remembering has to be faster."""
RANKED_S = 0.5
"""CPU seconds that a ranking of 8 models may take, bootstrap and all."""


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def main() -> int:
    torch.set_num_threads(1)
    config = Transformer(
        n_layers=2, d_model=80, n_heads=10, n_kv_heads=10, head_size=8, d_ff=224, vocab_size=1028
    )
    network = config.network()
    network.reset(0)
    network.requires_grad_(False)
    with torch.no_grad():
        network.head.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 1024, draw.integers(8, 30)).tolist() for _ in range(64)]

    def anew() -> None:
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
        for _ in range(24):
            rows = torch.cat((rows, network(rows)[:, -1:].argmax(-1)), dim=1)

    slow = seconds(anew)
    fast = seconds(lambda: write(network, prompts, n_new=24, end=1023))
    print(f"writing: {fast:.3f} s, reading anew {slow:.3f} s: {slow / fast:.1f} times as fast")
    first = draw.integers(0, 8, 4000)
    second = (first + draw.integers(1, 8, 4000)) % 8
    outcome = draw.choice([0.0, 0.5, 1.0], 4000, p=[0.4, 0.1, 0.5])
    matches = Matches(tuple(f"m{i}" for i in range(8)), first, second, outcome)
    ranked = seconds(lambda: bradley_terry(matches))
    print(f"ranking of 8 models, 4,000 matches, 1,000 replicates: {ranked:.3f} s")
    _against_evalica(matches, ranked)
    return 0 if slow / fast >= FASTER and ranked <= RANKED_S else 1


def _against_evalica(matches: Matches, ours: float) -> None:
    try:
        import evalica
    except ImportError:
        print("  evalica is not installed: no peer")
        return
    names = matches.names
    words = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    rows = (
        [names[i] for i in matches.first],
        [names[i] for i in matches.second],
        [words[float(o)] for o in matches.outcome],
    )
    theirs = seconds(lambda: evalica.bradley_terry(*rows))
    print(f"  evalica's estimate without any interval: {theirs:.3f} s, {theirs / ours:.2f} of ours")


if __name__ == "__main__":
    sys.exit(main())
