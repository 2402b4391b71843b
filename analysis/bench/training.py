"""How fast a training step is on one CPU core, beside a plain PyTorch loop on the same model.

    python analysis/bench/training.py

Ours is the network and FlatOptimizer exactly as scalelab/train/loop.py uses them, in fp32 and in
bf16. The baseline is transformers' LlamaForCausalLM of the same shape with torch.optim.AdamW,
clip_grad_norm_ and cross_entropy in fp32. All three take the same batches in one process, in
turn step by step, so that the noise of a shared machine hits them alike. The baseline also
gets the allocator settings that we make for ourselves (scalelab/hardware/device.py).

Prints a table, then one JSON object a line for each shape. Rates are tokens per second; each
ratio is the baseline's seconds over ours, of medians and of minima. `ceiling` is what the bf16
ratio would be if a step took nothing but its matmuls at the machine's own bf16 rate. The
targets of the ratios of medians are said to be reached or not; the exit code is 0 either way.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from scalelab.data.corpus.stream import Stream
from scalelab.data.corpus.token_files import TokenFile
from scalelab.hardware.device import use_threads
from scalelab.model.transformer.config import Transformer, TransformerFamily
from scalelab.sweep.file import SweepFile
from scalelab.train.optimizers.flat import FlatOptimizer

RECIPE = SweepFile.load(Path(__file__).parents[2] / "sweeps" / "isoflop.yaml", []).recipe
VOCAB = 1024
SECONDS, WARMUP_STEPS, MIN_STEPS = 10.0, 5, 12
TARGETS = {"fp32": 1.3, "bf16": 2.5}
SMALL = tuple((RECIPE.model, width, 64, 1024) for width in (16, 32, 64, 104))
LARGE = (
    (TransformerFamily(n_layers=4, head_size=32), 192, 128, 2048),
    (TransformerFamily(n_layers=8, head_size=32), 256, 128, 2048),
)


def main() -> None:
    use_threads(1)
    rates = {"fp32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)}
    print(", ".join(f"{k} matmul {v:.0f} GFLOP/s" for k, v in rates.items()) + ", one thread")
    ratios = f"{'fp32':>5} {'bf16':>5}"
    print(
        f"{'shape':>7} {'params':>8} {'T':>4} | {'plain':>8} {'fp32':>8} {'bf16':>8} tokens/s | "
        f"{ratios} medians | {ratios} minima | ceiling"
    )
    lines = [compare(*shape, rates) for shape in SMALL + LARGE]
    for line in lines:
        print(json.dumps(line))
    for precision, target in TARGETS.items():
        ratios = [line[f"ratio_{precision}"] for line in lines]
        verdict = "reached" if min(ratios) >= target else "NOT reached"
        met = sum(r >= target for r in ratios)
        print(
            f"target {target} in {precision}: {verdict}, by {met} of {len(ratios)} shapes; "
            f"from {min(ratios):.2f} to {max(ratios):.2f}"
        )


def compare(family: TransformerFamily, width: int, seq_len: int, batch_tokens: int, rates: dict) -> dict:
    """Time one shape three ways, in turn; one line of the table, one record."""
    config = next(m for m in family.members(VOCAB) if m.d_model == width)
    tokens = np.random.default_rng(0).integers(VOCAB, size=2**21).astype("<u2")
    stream = Stream(TokenFile((tokens,), Path()), seq_len, seed=0)
    rows = batch_tokens // seq_len
    steps = {
        "plain": plain(config, seq_len, batch_tokens),
        "fp32": ours(config, batch_tokens, torch.float32),
        "bf16": ours(config, batch_tokens, torch.bfloat16),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    began, k = time.perf_counter(), 0
    while k < WARMUP_STEPS + MIN_STEPS or time.perf_counter() - began < SECONDS:
        for name, step in steps.items():
            start = time.perf_counter()
            step(torch.from_numpy(stream.batch(k, rows)))
            seconds[name].append(time.perf_counter() - start)
        k += 1
    median = {name: statistics.median(s[WARMUP_STEPS:]) for name, s in seconds.items()}
    least = {name: min(s[WARMUP_STEPS:]) for name, s in seconds.items()}
    size = config.size(seq_len)
    in_matmuls = size.flops_per_token * batch_tokens / (rates["bf16"] * 1e9)
    out: dict = {"shape": f"{config.n_layers}x{width}", "n_params": size.n_params_total}
    out |= {"seq_len": seq_len, "batch_tokens": batch_tokens, "n_steps": k}
    out |= {f"tokens_per_s_{n}": round(batch_tokens / s) for n, s in median.items()}
    out |= {f"tokens_per_s_{n}_best": round(batch_tokens / s) for n, s in least.items()}
    for name in TARGETS:
        out[f"ratio_{name}"] = round(median["plain"] / median[name], 3)
        out[f"ratio_{name}_best"] = round(least["plain"] / least[name], 3)
    out["ceiling"] = round(median["plain"] / in_matmuls, 2)
    out |= {f"matmul_gflops_per_s_{name}": round(rate) for name, rate in rates.items()}
    r = [f"{out[f'tokens_per_s_{n}']:>8}" for n in steps]
    print(
        f"{out['shape']:>7} {out['n_params']:>8} {seq_len:>4} | {' '.join(r)}          | "
        f"{out['ratio_fp32']:>5.2f} {out['ratio_bf16']:>5.2f}         | "
        f"{out['ratio_fp32_best']:>5.2f} {out['ratio_bf16_best']:>5.2f}        | "
        f"{out['ceiling']:.1f}"
    )
    return out


def plain(config: Transformer, seq_len: int, batch_tokens: int) -> Callable[[torch.Tensor], None]:
    """A step as one would write it: a stock model, a stock optimizer."""
    model = LlamaForCausalLM(LlamaConfig.from_dict(config.hugging_face().describe(seq_len)))
    spec = RECIPE.optimizer.at(RECIPE.scale(config, 1e6).with_batch(batch_tokens))
    adamw = torch.optim.AdamW(model.parameters(), lr=spec.lr_matrix, betas=(0.9, 0.95))

    def step(batch: torch.Tensor) -> None:
        adamw.zero_grad()
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()

    return step


def ours(config: Transformer, batch_tokens: int, working: torch.dtype) -> Callable[[torch.Tensor], None]:
    """A step as scalelab/train/loop.py takes it."""
    network = config.network()
    network.reset(0)
    spec = RECIPE.optimizer.at(RECIPE.scale(config, 1e6).with_batch(batch_tokens))
    optimizer = FlatOptimizer(network, network.kinds(), spec, working)

    def step(batch: torch.Tensor) -> None:
        network(batch[:, :-1], batch[:, 1:]).backward()
        optimizer.gather()
        optimizer.step(1.0)

    return step


def matmul_rate(dtype: torch.dtype, n: int = 1024) -> float:
    """GFLOP/s of a square product, best of many."""
    a, b, best = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype), float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


if __name__ == "__main__":
    main()
