"""What each process of test_parallel.py does. Importable, since it runs in its own processes."""

import os
import warnings
from collections.abc import Mapping

import torch
import torch.distributed as dist

from scalelab.config import parse_yaml
from scalelab.hardware.device import find_device
from scalelab.hardware.layout import Layout
from scalelab.train.engines.parallel import ParallelEngine
from scalelab.train.spec import RunSpec

LAYOUTS = (Layout(shard=4), Layout(replicate=2, tensor=2), Layout(tensor=2, pipeline=2, micro_batches=2))
UNCUT_LAYOUTS = (Layout(shard=4), Layout(replicate=2, pipeline=2, micro_batches=2))


def body(
    rank: int, port: int, cases: Mapping[str, tuple[str, str, tuple[Layout, ...]]], answers: list
) -> None:
    """Of each case two steps under each of its layouts, then both ways to validate; rank 0 answers.

    A case is the YAML of a run, a precision and layouts.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE="4", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    tokens = torch.randint(257, (3, 8, 33), generator=torch.Generator().manual_seed(0))
    for name, (spec_yaml, precision, layouts) in cases.items():
        spec = RunSpec.parse(parse_yaml(spec_yaml, "spec"))
        for layout in layouts:
            engine = ParallelEngine(spec, layout, find_device(), precision)
            part, n = engine.share
            losses = []
            for batch in tokens[:2]:
                loss = engine.gradient(batch.chunk(n)[part])
                norm = engine.norm()
                losses.append((engine.agree(loss, norm, False).loss, float(norm)))
                engine.update(1.0, norm)
            windows = tokens[2].numpy()
            gathered, in_place = engine.validate(windows), engine.validate_in_place(windows)
            own = engine.own_seconds()
            timed = engine.agree(loss, norm, own_seconds=own).own_seconds
            if rank == 0:
                answers.append((name, layout, losses, gathered, in_place, len(timed)))
    dist.destroy_process_group()
