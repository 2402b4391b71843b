"""How runs are compiled: one graph a shape, and the same losses."""

import os
import sys
from pathlib import Path

import pytest
import torch

from scalelab.hardware.device import Device, find_device
from scalelab.train.engines import compilation
from scalelab.train.engines.single import SingleEngine
from scalelab.train.loop import train
from scalelab.train.recipe import Recipe
from scalelab.train.run_directory import RunDir

sys.path.insert(0, str(Path(__file__).parent))
from graphs import counted

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
GRAPHS = {"block": 2, "whole": 1}
"""Graphs of a training step by mode. block: a block, and the head with its loss."""


@pytest.fixture
def graphs(monkeypatch):
    with counted(monkeypatch) as found:
        yield found


def steps(engine, batches):
    """Losses and norms of a few steps."""
    found = []
    for batch in batches:
        loss = engine.gradient(batch)
        norm = engine.norm()
        engine.update(1.0, norm)
        found.append((float(loss), float(norm)))
    return torch.tensor(found)


def random_batches(n, rows=8):
    return torch.randint(257, (n, rows, 33), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", GRAPHS)
def test_every_layer_is_compiled_once_and_computes_what_it_did(tiny_spec, graphs, mode):
    model = {"n_layers": 3}
    eager = SingleEngine(tiny_spec(model=model), find_device(), "fp32", 4)
    engine = SingleEngine(tiny_spec(model=model, compile=mode), find_device(), "fp32", 4)

    batches = random_batches(3)
    assert torch.allclose(steps(engine, batches), steps(eager, batches), rtol=2e-4)
    assert len(graphs) == GRAPHS[mode], graphs.shapes
    assert not graphs.symbols


def test_a_halved_micro_batch_is_one_more_static_shape(tiny_spec, monkeypatch):
    spec = tiny_spec(compile="whole", model={"n_layers": 1})
    with counted(monkeypatch, lowered=False) as graphs:
        engine = SingleEngine(spec, find_device(), "fp32", 8)
        batches = random_batches(1)
        for rows in (8, 4, 2):
            assert engine.micro_rows == rows
            steps(engine, batches)
            engine._halve("not enough")

    assert len(graphs) == 3, graphs.shapes
    assert not graphs.symbols


def test_the_setting_is_the_recipes_and_by_default_changes_no_id(tiny_spec):
    spec = tiny_spec()
    assert spec.compile == Recipe.model_fields["compile"].default == "auto"
    assert tiny_spec(compile="auto").ids == spec.ids
    assert len({spec.id, *(tiny_spec(compile=mode).id for mode in ("off", "block", "whole"))}) == 4


def test_a_gpu_compiles_by_block_and_a_cpu_does_not():
    gpu, cpu = Device("cuda", "a GPU", 2**34), Device("cpu", "a CPU", 2**34)
    asked = ("auto", "off", "block", "whole")
    assert [gpu.compile_mode(mode) for mode in asked] == ["block", "off", "block", "whole"]
    assert [cpu.compile_mode(mode) for mode in asked] == ["off", "off", "block", "whole"]


def test_runs_of_one_root_share_their_compiled_kernels(tiny_spec, tmp_path, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.setattr(compilation, "BACKEND", "eager")
    monkeypatch.setenv(compilation.CACHE, "before")  # so that it is put back
    monkeypatch.delenv(compilation.CACHE)
    for mode in ("off", "block"):
        spec = tiny_spec(compile=mode, n_steps=1)
        run_dir = RunDir(tmp_path / "a-sweep" / spec.id)
        run_dir.create(spec)
        train(run_dir)
        assert (compilation.CACHE in os.environ) == (mode == "block")

    assert Path(cache_dir()) == tmp_path / ".compiled"
    compilation.share_compile_cache(tmp_path / "elsewhere")
    assert Path(cache_dir()) == tmp_path / ".compiled"
