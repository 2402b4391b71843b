"""How fast a training step is on one CPU core, beside two loops as others write them.

    python analysis/bench/training.py [--seconds 25] [--shape 3M] [--profile]

Ours is the engine of a run (train/engines/single.py) on the transformer of a recipe, in fp32 and in bf16, as
scalelab/train/loop.py calls it. Its peers are, in fp32 and with the same layers, width, heads and matrix products:

    plain   the model and the loop of nanoGPT: LayerNorm, learned positions, GELU with a hidden layer of 4 d (as many
            numbers as SwiGLU with 8/3 d), scaled_dot_product_attention, torch.optim.AdamW, clip_grad_norm_
    llama   transformers' LlamaForCausalLM with torch.optim.AdamW, clip_grad_norm_: our own default architecture

The model of `plain` has fewer operations than ours between its products: no rotary positions, no gate. Both peers
get the allocator settings that a run makes for itself (scalelab/hardware/device.py); without, they are slower.

All take the same batches in one process in turn, step by step, in an order that rotates, so that other work on the
machine hits them alike. Times are CPU seconds of the process, which computes on one thread. A ratio is the median
over rounds of peer's seconds over ours, with a 95% bootstrap interval of the median. `ceiling` is what the bf16 ratio
would be if a step took nothing but its matrix products, at the machine's own bf16 rate of a large square one.

Prints a table, then one JSON object a line for each shape. The exit status is 0 whether or not targets are reached.
--profile prints where our steps spend their time instead.

Source of the plain loop: github.com/karpathy/nanoGPT, model.py and train.py.
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from scalelab.data.corpus.stream import Stream
from scalelab.data.corpus.token_files import TokenFile
from scalelab.hardware.device import find_device, use_threads
from scalelab.model.transformer.config import Transformer, TransformerFamily
from scalelab.sweep.file import SweepFile
from scalelab.train.engines.single import SingleEngine
from scalelab.train.spec import RunSpec

RECIPE = SweepFile.load(Path(__file__).parents[2] / "sweeps" / "isoflop.yaml", []).recipe
VOCAB = 1024
WARMUP_ROUNDS, MIN_ROUNDS = 5, 20
TARGETS = {"plain/fp32": 1.0, "llama/fp32": 1.0, "plain/bf16": 2.0}
Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    family: TransformerFamily
    width: int
    seq_len: int
    batch_tokens: int

    @property
    def config(self) -> Transformer:
        """The member of the family."""
        return next(m for m in self.family.members(VOCAB) if m.d_model == self.width)


SHAPES = {
    "100k": Shape(RECIPE.model, 48, 64, 1024),
    "500k": Shape(TransformerFamily(n_layers=2, head_size=16), 128, 64, 1024),
    "3M": Shape(TransformerFamily(n_layers=6, head_size=32), 192, 128, 2048),
}
"""By about how many parameters they have in matrix products: a size of the embedded default, and two larger ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="CPU seconds for each shape")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="measure this one; can be repeated")
    parser.add_argument("--profile", action="store_true", help="print the operators of our steps")
    args = parser.parse_args()
    use_threads(1)
    chosen = {name: SHAPES[name] for name in args.shape or SHAPES}
    if args.profile:
        for name, shape in chosen.items():
            for precision in ("fp32", "bf16"):
                print(f"{name} in {precision}")
                print(profile(shape, precision))
        return
    rates = {"fp32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)}
    print(", ".join(f"{k} matmul {v:.0f} GFLOP/s" for k, v in rates.items()) + ", one thread")
    print(f"{'shape':>12} {'T':>4} | tokens/s: plain, llama, fp32, bf16 | {', '.join(TARGETS)} | ceiling")
    lines = [compare(name, shape, rates, args.seconds) for name, shape in chosen.items()]
    for line in lines:
        print(json.dumps(line))
    for name, target in TARGETS.items():
        found = [line[name][0] for line in lines]
        print(
            f"{name} at least {target}: {'reached' if min(found) >= target else 'NOT reached'}, by "
            f"{sum(r >= target for r in found)} of {len(found)} shapes; from {min(found):.2f} to {max(found):.2f}"
        )


def compare(name: str, shape: Shape, rates: dict[str, float], seconds: float) -> dict:
    """Time one shape four ways, in turn; one line of the table, one record."""
    config = shape.config
    steps = {
        "plain": plain(config, shape),
        "llama": llama(config, shape),
        "fp32": ours(config, shape, "fp32"),
        "bf16": ours(config, shape, "bf16"),
    }
    batches, order = batches_of(shape), list(steps)
    times: dict[str, list[float]] = {key: [] for key in steps}
    began, k = time.process_time(), 0
    while k < WARMUP_ROUNDS + MIN_ROUNDS or time.process_time() - began < seconds:
        batch = batches(k)
        for key in order:
            start = time.process_time()
            steps[key](batch)
            times[key].append(time.process_time() - start)
        order.append(order.pop(0))
        k += 1
    taken = {key: np.array(t[WARMUP_ROUNDS:]) for key, t in times.items()}
    size = config.size(shape.seq_len)
    in_products = size.flops_per_token * shape.batch_tokens / (rates["bf16"] * 1e9)
    out: dict = {"shape": name, "model": f"{config.n_layers}x{config.d_model}", "heads": config.n_heads}
    out |= {
        "n_params_matmul": size.n_params_matmul,
        "seq_len": shape.seq_len,
        "batch_tokens": shape.batch_tokens,
    }
    out["rounds"] = k - WARMUP_ROUNDS
    out |= {
        f"tokens_per_s_{key}": round(shape.batch_tokens / float(np.median(t))) for key, t in taken.items()
    }
    for key in ("plain/fp32", "llama/fp32", "plain/bf16", "llama/bf16"):
        peer, one = key.split("/")
        out[key] = [round(x, 3) for x in median_of(taken[peer] / taken[one])]
    out["ceiling"] = round(float(np.median(taken["plain"])) / in_products, 2)
    out |= {f"matmul_gflops_per_s_{key}": round(rate) for key, rate in rates.items()}
    print(
        f"{name:>5} {out['model']:>6} {shape.seq_len:>4} | "
        + " ".join(f"{out[f'tokens_per_s_{key}']:>8}" for key in steps)
        + " | "
        + "  ".join("{:.2f} [{:.2f}, {:.2f}]".format(*out[key]) for key in TARGETS)
        + f" | {out['ceiling']:.1f}",
        flush=True,
    )
    return out


def median_of(ratios: np.ndarray, replicates: int = 1000) -> tuple[float, float, float]:
    """The median, and its 95% interval by resampling rounds."""
    drawn = np.random.default_rng(0).choice(ratios, (replicates, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def batches_of(shape: Shape) -> Callable[[int], Tensor]:
    """Random tokens, read as a run reads its corpus."""
    tokens = np.random.default_rng(0).integers(VOCAB, size=2**21).astype("<u2")
    stream = Stream(TokenFile((tokens,), Path()), shape.seq_len, seed=0)
    return lambda k: torch.from_numpy(stream.batch(k, shape.batch_tokens // shape.seq_len))


def spec_of(config: Transformer, shape: Shape) -> RunSpec:
    """The run of the recipe, at the batch of the shape."""
    scale = RECIPE.scale(config, 1e6).with_batch(shape.batch_tokens)
    return RunSpec(
        data=RECIPE.data,
        data_digest="0" * 64,
        seq_len=shape.seq_len,
        model=config,
        optimizer=RECIPE.optimizer.at(scale),
        schedule=RECIPE.schedule.model_copy(update={"trunk": False}),
        batch_tokens=shape.batch_tokens,
        n_steps=1000,
    )


def ours(config: Transformer, shape: Shape, precision: str) -> Step:
    """A step as scalelab/train/loop.py takes it."""
    engine = SingleEngine(
        spec_of(config, shape), find_device(), precision, shape.batch_tokens // shape.seq_len
    )
    total = torch.zeros((), dtype=torch.float64)

    def step(batch: Tensor) -> None:
        loss = engine.gradient(batch)
        engine.update(1.0, engine.norm())
        total.add_(loss)

    return step


def looped(model: nn.Module, logits: Callable[[Tensor], Tensor], config: Transformer, shape: Shape) -> Step:
    """A step as one would write it, with a stock optimizer."""
    lr = spec_of(config, shape).optimizer.lr_matrix
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))

    def step(batch: Tensor) -> float:
        found = logits(batch[:, :-1])
        loss = F.cross_entropy(found.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss.item()

    return step


def llama(config: Transformer, shape: Shape) -> Step:
    """Transformers' model of the same shape."""
    model = LlamaForCausalLM(LlamaConfig.from_dict(config.hugging_face().describe(shape.seq_len)))
    return looped(model, lambda tokens: model(tokens, use_cache=False).logits, config, shape)


def plain(config: Transformer, shape: Shape) -> Step:
    """NanoGPT's model of the same width, without biases and with a head of its own, as ours has."""
    model = Plain(config, shape.seq_len)
    return looped(model, model, config, shape)


class Plain(nn.Module):
    """The decoder of nanoGPT."""

    def __init__(self, config: Transformer, seq_len: int):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, config.d_model)
        self.positions = nn.Embedding(seq_len, config.d_model)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.head = nn.Linear(config.d_model, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (B, T, V)."""
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class PlainBlock(nn.Module):
    """A layer of it."""

    def __init__(self, config: Transformer):
        super().__init__()
        d, self.n_heads = config.d_model, config.n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)
        for layer in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after the layer."""
        B, T, d = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(d, dim=2)
        q, k, v = (y.view(B, T, self.n_heads, d // self.n_heads).transpose(1, 2) for y in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).contiguous().view(B, T, d))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


def profile(shape: Shape, precision: str, steps: int = 30) -> str:
    """Table of the operators of our steps by their own CPU time."""
    step, batches = ours(shape.config, shape, precision), batches_of(shape)
    for k in range(WARMUP_ROUNDS):
        step(batches(k))
    with torch.profiler.profile() as found:
        for k in range(steps):
            step(batches(k))
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=40)


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
