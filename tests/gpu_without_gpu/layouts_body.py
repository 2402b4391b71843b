"""What each process of test_layouts.py does. Importable, since it runs in its own processes."""

import os
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from engine_body import checks
from torch.distributed.tensor import DTensor
from two_processes import PROCESSES

from scalelab.config import parse_yaml
from scalelab.hardware.device import find_device
from scalelab.hardware.layout import Layout
from scalelab.train import memory
from scalelab.train.engines import compilation
from scalelab.train.engines.parallel import ParallelEngine
from scalelab.train.spec import RunSpec

CASES = (
    ("block", Layout(tensor=2), "auto"),
    ("whole", Layout(tensor=2), "auto"),
    ("block", Layout(shard=2), "auto"),
    ("block", Layout(pipeline=2, micro_batches=2, recompute=True), "auto"),
    ("block", Layout(shard=2), "chunked"),
    ("whole", Layout(replicate=2), "chunked"),
)
"""Mode of the compiler, layout, and cross_entropy of each case."""
CHUNK = 50
"""Rows of a chunk of the loss."""
STEPS = 2
TIMEOUT_S = 300.0


def body(rank: int, port: int, spec_yaml: str, answers: dict) -> None:
    """Steps under each layout, compiled, then the checks of engine_body.py; each rank answers."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    warnings.simplefilter("ignore")  # torch's own, while it traces
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    compilation.BACKEND = "aot_eager"
    spec = RunSpec.parse(parse_yaml(spec_yaml, "spec"))
    tokens = torch.randint(257, (3, 8, 33), generator=torch.Generator().manual_seed(0))
    memory.chunk_rows = lambda n, vocabulary: CHUNK
    for number, (mode, layout, loss) in enumerate(CASES):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        asked = spec.model_copy(update={"compile": mode, "cross_entropy": loss})
        engine = ParallelEngine(asked, layout, find_device(), "fp32")
        began = {name: weight.numpy() for name, weight in engine.weights().items()}
        part, n = engine.share
        losses = []
        for batch in tokens[:STEPS]:
            mean = engine.gradient(batch.chunk(n)[part])
            norm = engine.norm()
            losses.append((engine.agree(mean, norm, False).loss, float(norm)))
            engine.update(1.0, norm)
        in_place = engine.validate_in_place(tokens[2].numpy())
        kept = all(isinstance(t, DTensor) and t.dtype == torch.float32 for t in engine.state().values())
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        answers["layout", number, rank] = (
            losses, in_place[0], graphs, began, kept, engine.network.loss_rows
        )  # fmt: skip
    checks(spec, tokens, rank, answers)
