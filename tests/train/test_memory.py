"""Bytes of a run: those that torch keeps, those of a file, and the micro-batch that follows."""

import pytest
import torch
from safetensors.torch import save_file

from scalelab.model.transformer.network import TransformerNet
from scalelab.train import memory
from scalelab.train.memory import (
    CPU_MICRO_TOKENS,
    SHARE_OF_DEVICE,
    first_micro_rows,
    loss_rows,
    run_bytes,
    state_bytes,
)
from scalelab.train.optimizers.flat import FlatOptimizer

# The tiny model: embedding and head 257 x 16; two blocks of 4 x 16 x 16 for attention and
# 3 x 16 x 48 for the gate, and two norms of 16; a last norm of 16.
N_PARAMS = 2 * 257 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 48 + 2 * 16) + 16
# A layer of a token: norms 4 x 16; 8 heads of 8 twice; mixed 16; gate 4 x 48. Logits and what is made of
# them: in fp32 2 x 4 bytes, in bf16 2 + 4 + 4.
NUMBERS = 2 * (64 + 128 + 16 + 192)
LOGITS = {"fp32": 8 * 257, "bf16": 10 * 257}

# 512 windows of 32 tokens in bf16, their loss in chunks of 20 rows.
ROOM_OF_512 = int((20 * N_PARAMS + (2 * NUMBERS + 2 * 16) * 512 * 32 + 20 * 2570 + 257 * 16 * 6) / 0.8) + 1


def all_bytes(tensors):
    """Bytes of storage, each counted once however many views there are of it."""
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stored.values())


@pytest.mark.parametrize(("working", "precision"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_state_is_what_the_optimizer_really_holds(tiny_spec, working, precision):
    """Weights, gradients and two moments of 4 bytes; in bf16 weights and gradients again."""
    spec = tiny_spec()
    net = TransformerNet(spec.model)
    net.reset(0)
    flat = FlatOptimizer(net, net.kinds(), spec.optimizer, getattr(torch, working))
    net(*[torch.zeros(1, 4, dtype=torch.long)] * 2).backward()
    flat.gather()
    flat.step(1.0)

    moments = [value for key, value in flat.state().items() if not key.endswith("step")]
    held = [flat.master, flat.gradient, *moments]
    held += [t for p in net.parameters() for t in (p.data, p.grad)]

    assert sum(p.numel() for p in net.parameters()) == N_PARAMS
    assert all_bytes(held) == state_bytes(N_PARAMS, precision, spec.optimizer)


def test_state_is_torchs_own_adamw_and_what_it_is_given(tiny_spec):
    """4 bytes of weight and 4 of gradient beside torch's exp_avg and exp_avg_sq."""
    spec = tiny_spec()
    net = TransformerNet(spec.model)
    net.reset(0)
    adamw = torch.optim.AdamW(net.parameters())
    net(*[torch.zeros(1, 4, dtype=torch.long)] * 2).backward()
    adamw.step()

    moments = sum(
        value.numel() * value.element_size()
        for state in adamw.state.values()
        for name, value in state.items()
        if name != "step"
    )

    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in net.parameters())
    found = state_bytes(N_PARAMS, "fp32", spec.optimizer)
    assert weights + gradients + moments == found == 16 * N_PARAMS


def test_weights_on_the_disk_are_four_bytes_each(tiny_spec, tmp_path):
    net = TransformerNet(tiny_spec().model)
    net.reset(0)

    save_file(dict(net.named_parameters()), tmp_path / "model.safetensors")

    n_bytes = (tmp_path / "model.safetensors").stat().st_size
    assert 4 * N_PARAMS < n_bytes < 4 * N_PARAMS + 4096  # and a header that names them


@pytest.mark.parametrize(("precision", "state", "number"), [("fp32", 16, 4), ("bf16", 20, 2)])
def test_a_run_is_its_state_and_the_tokens_of_its_micro_batch(tiny_spec, precision, state, number):
    found = run_bytes(tiny_spec(), precision, 3, "cuda", None)

    assert found == state * N_PARAMS + (number * NUMBERS + LOGITS[precision]) * 3 * 32


@pytest.mark.parametrize(("precision", "number"), [("fp32", 4), ("bf16", 2)])
def test_a_loss_in_chunks_takes_the_logits_of_one_chunk_and_the_gradients_of_the_head(
    tiny_spec, precision, number, monkeypatch
):
    """96 tokens in chunks of 20; the head is 257 x 16, its gradient is summed in fp32."""
    monkeypatch.setattr(memory, "chunk_rows", lambda n, vocabulary: 20)
    plain, chunked = (
        run_bytes(tiny_spec(cross_entropy=how), precision, 3, "cuda", None) for how in ("plain", "chunked")
    )

    logits = LOGITS[precision]
    loss = 20 * logits + 96 * 16 * number + 257 * 16 * (4 + number)
    assert plain - chunked == 96 * logits - loss


def test_how_the_loss_is_computed_decides_the_first_micro_batch(tiny_spec, monkeypatch):
    """By itself it is in chunks where plain logits would take a sixteenth of the memory."""
    monkeypatch.setattr(memory, "chunk_rows", lambda n, vocabulary: 20)
    rows = {
        how: first_micro_rows(
            tiny_spec(cross_entropy=how, batch_tokens=512 * 32), "cuda", ROOM_OF_512, "bf16"
        )
        for how in ("plain", "chunked", "auto")
    }

    assert rows == {"plain": 128, "chunked": 512, "auto": 512}


@pytest.mark.parametrize(
    ("asked", "kind", "memory_bytes", "chunked"),
    [
        ("auto", "cuda", 16 * 8 * 100 * 257, False),
        ("auto", "cuda", 16 * 8 * 100 * 257 - 1, True),
        ("auto", "cuda", None, False),
        ("auto", "cpu", 1, False),
        ("chunked", "cpu", None, True),
        ("plain", "cuda", 1, False),
    ],
)
def test_the_rows_of_a_loss(tiny_spec, monkeypatch, asked, kind, memory_bytes, chunked):
    monkeypatch.setattr(memory, "chunk_rows", lambda n, vocabulary: 20)
    found = loss_rows(tiny_spec().model, asked, 100, 4, kind, memory_bytes)

    assert found == (20 if chunked else None)


def test_chunks_that_take_more_than_plain_logits_are_no_default(tiny_spec):
    """100 rows are one chunk, and the gradients of the head come on top."""
    assert loss_rows(tiny_spec().model, "auto", 100, 4, "cuda", 1) is None
    assert loss_rows(tiny_spec().model, "chunked", 100, 4, "cuda", 1) == 2**27 // 257


def test_a_model_without_such_a_loss_has_it_plain(tiny_spec, monkeypatch):
    model = tiny_spec().model
    monkeypatch.setattr(type(model), "has_chunked_loss", False)

    assert loss_rows(model, "chunked", 100, 4, "cuda", 1) is None


def test_the_first_micro_batch_is_halved_until_four_fifths_of_the_device_hold_it(tiny_spec):
    """16 windows are halved to 8, 4, 2, 1."""
    spec = tiny_spec(batch_tokens=16 * 32, cross_entropy="plain")
    four = 20 * N_PARAMS + (2 * NUMBERS + LOGITS["bf16"]) * 4 * 32
    just, short = int(four / 0.8) + 1, int(four / 0.8) - 1

    assert first_micro_rows(spec, "cuda", just, "bf16") == 4
    assert first_micro_rows(spec, "cuda", short, "bf16") == 2
    assert first_micro_rows(spec, "cuda", 10**12, "bf16") == 16
    assert SHARE_OF_DEVICE == 0.8


def test_on_a_cpu_the_cache_decides(tiny_spec):
    """16384 tokens are 512 windows of 32."""
    assert CPU_MICRO_TOKENS == 16384
    assert first_micro_rows(tiny_spec(batch_tokens=1024 * 32), "cpu", None, "fp32") == 512
    assert first_micro_rows(tiny_spec(batch_tokens=512 * 32), "cpu", None, "fp32") == 512
