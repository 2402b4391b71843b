"""The search for a layout: against launch's own refusals, closed forms, limits, refusals."""

import json
from types import SimpleNamespace

import pytest

from scalelab.errors import LaunchError, PlanError
from scalelab.hardware.layout import Layout
from scalelab.model.transformer.config import Transformer
from scalelab.plan.cost.layout_estimate import PLANNED_ONLY, Cluster, bubble, estimate_layout, words
from scalelab.plan.cost.layouts import layouts
from scalelab.train.engines.layout_checks import refuse_layout

SHAPE = {
    "n_layers": 32,
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_size": 128,
    "d_ff": 14336,
    "vocab_size": 128256,
}
LLAMA_8B = Transformer(**SHAPE)
LLAMA_70B = Transformer(**SHAPE | {"n_layers": 80, "d_model": 8192, "n_heads": 64, "d_ff": 28672})
SMALL = Transformer(
    n_layers=3, d_model=96, n_heads=6, n_kv_heads=2, head_size=16, d_ff=256, vocab_size=1024, tied=True
)

SHARDABLE = SimpleNamespace(is_shardable=True)


def h100(count, **settings):
    given = {"memory_bytes": 80e9, "flops_per_s": 400e12, "link_bytes_per_s": 450e9, "per_node": 8}
    return Cluster(count, **given | settings)


def best_of(model, devices, rows=512, seq_len=8192):
    return layouts(model, devices, seq_len=seq_len, batch_rows=rows)


@pytest.mark.parametrize(
    ("model", "count", "rows", "seq_len"),
    [
        (LLAMA_8B, 64, 512, 8192),
        (LLAMA_70B, 48, 384, 8192),
        (SMALL, 4, 24, 64),
        (SMALL, 6, 24, 64),
        (SMALL, 1, 7, 64),
    ],
)
def test_launch_takes_whatever_is_proposed(model, count, rows, seq_len):
    spec = SimpleNamespace(
        model=model,
        batch_tokens=rows * seq_len,
        seq_len=seq_len,
        cross_entropy="auto",
        cuda_graphs="auto",
        matmul="plain",
        optimizer=SHARDABLE,
    )
    found = best_of(model, h100(count), rows, seq_len)

    assert found[0].fits
    for considered in found:
        layout = considered.layout
        assert layout.devices == count
        assert layout.micro_batches >= layout.pipeline
        if layout.context == 1:
            refuse_layout(layout, spec)


def test_no_layout_that_launch_takes_is_left_out():
    """Every product of degrees up to the number of devices, asked of launch itself."""
    spec = SimpleNamespace(
        model=SMALL,
        batch_tokens=24 * 64,
        seq_len=64,
        cross_entropy="auto",
        cuda_graphs="auto",
        matmul="plain",
        optimizer=SHARDABLE,
    )
    degrees = {
        (c.layout.replicate, c.layout.shard, c.layout.tensor, c.layout.pipeline)
        for c in best_of(SMALL, h100(8), 24, 64)
        if c.launches
    }
    wanted = set()
    for r, s, t, p in ((r, s, t, p) for r in D8 for s in D8 for t in D8 for p in D8):
        if r * s * t * p == 8:
            try:
                refuse_layout(Layout(r, s, t, p), spec)
            except LaunchError:
                continue
            wanted.add((r, s, t, p))

    assert degrees == wanted


D8 = (1, 2, 4, 8)


@pytest.mark.parametrize("asked", ["auto", "chunked"])
def test_layouts_that_cannot_compute_the_loss_in_chunks_are_left_out(asked):
    found = layouts(SMALL, h100(8), seq_len=64, batch_rows=24, cross_entropy=asked)
    spec = SimpleNamespace(
        model=SMALL,
        batch_tokens=24 * 64,
        seq_len=64,
        cross_entropy=asked,
        cuda_graphs="auto",
        matmul="plain",
        optimizer=SHARDABLE,
    )
    for considered in found:
        if considered.launches:
            refuse_layout(considered.layout, spec)

    cuts = {(one.layout.tensor > 1, one.layout.pipeline > 1) for one in found}
    assert (cuts == {(False, False)}) == (asked == "chunked")


def test_graphs_over_several_devices_are_refused_before_a_plan():
    with pytest.raises(PlanError, match="cuda_graphs is on, and 8 processes share the run") as refusal:
        layouts(SMALL, h100(8), seq_len=64, batch_rows=24, cuda_graphs="on")
    assert "`cuda_graphs: auto`" in refusal.value.fix
    assert layouts(SMALL, h100(1), seq_len=64, batch_rows=24, cuda_graphs="on")[0].fits


def test_fp8_over_several_devices_is_refused_before_a_plan():
    with pytest.raises(PlanError, match="matmul is fp8, and 8 processes share the run") as refusal:
        layouts(SMALL, h100(8), seq_len=64, batch_rows=24, matmul="fp8")
    assert "`matmul: plain`" in refusal.value.fix
    assert layouts(SMALL, h100(1), seq_len=64, batch_rows=24, matmul="fp8")[0].fits


def test_a_model_that_fits_everywhere_is_copied_everywhere():
    best = best_of(SMALL, h100(4), 24, 64)[0]

    assert best.layout == Layout(replicate=4)
    assert best.pipeline_s == best.recompute_s == 0


def test_the_order_fits_then_planned_then_too_large():
    found = best_of(LLAMA_8B, h100(16))
    kinds = [2 if not c.fits else int(not c.launches) for c in found]
    launched = [c.lost_s for c in found if c.fits and c.launches]

    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}
    assert launched == sorted(launched)
    assert {c.note for c in found if c.layout.context > 1} == {PLANNED_ONLY}


def test_no_micro_batches_and_recomputation_beat_the_ones_proposed():
    """The proposed layout's own degrees, with every other way to work through the batch."""
    devices = h100(16)
    for best in best_of(LLAMA_8B, devices)[:8]:
        layout = best.layout
        parts = 512 // (layout.replicate * layout.shard)
        for m in (2**i for i in range(parts.bit_length())):
            for recompute in (False, True):
                other = Layout(**layout.to_json() | {"micro_batches": m, "recompute": recompute})
                tried = estimate_layout(LLAMA_8B, devices, other, seq_len=8192, batch_rows=512)
                if tried.fits and m >= layout.pipeline and best.launches:
                    assert tried.lost_s >= best.lost_s - 1e-9


def test_offload_only_when_nothing_else_fits():
    assert not any(c.layout.offload for c in best_of(LLAMA_8B, h100(8)))

    best = best_of(LLAMA_70B, h100(8))[0]
    assert best.layout.offload
    assert best.memory.host_bytes > 80e9
    assert best.note == "needs 141.1 GB of host memory for each device"


def test_one_device_is_used_as_in_the_sweep():
    """The training loop neither recomputes nor offloads there."""
    alone = best_of(SMALL, h100(1), 24, 64)
    named = estimate_layout(SMALL, h100(1), Layout(recompute=True), seq_len=64, batch_rows=24)

    assert [c.layout for c in alone] == [Layout()]
    assert not named.launches
    assert named.note == PLANNED_ONLY
    with pytest.raises(PlanError, match="one device, 512 micro-batches needs the least"):
        best_of(LLAMA_8B, h100(1))


def test_refuses_with_numbers_what_cannot_fit():
    with pytest.raises(PlanError, match=r"7.06e10 parameters does not fit 1 x 24 GB") as caught:
        best_of(LLAMA_70B, h100(1, memory_bytes=24e9))

    assert "19.2 GB may be used" in str(caught.value)
    assert not any(c.fits for c in caught.value.evidence)


def test_refuses_devices_that_nothing_divides():
    with pytest.raises(PlanError, match="no layout of 7 devices divides a batch of 64 windows"):
        best_of(SMALL, h100(7), 64, 64)


@pytest.mark.parametrize("name", ["count", "memory_bytes", "flops_per_s", "link_bytes_per_s"])
def test_refuses_devices_that_cannot_be(name):
    settings = {name: 0} if name != "count" else {}
    with pytest.raises(PlanError, match=f"{name} is 0"):
        h100(0 if name == "count" else 1, **settings)


def test_refuses_a_named_layout_of_other_devices():
    with pytest.raises(PlanError, match="2 x data needs 2 devices"):
        estimate_layout(SMALL, h100(4), Layout(replicate=2), seq_len=64, batch_rows=24)


def test_the_bubble_of_even_stages_is_the_published_one():
    """(p - 1) / m of the time without it, Narayanan et al. 2021, section 2.2."""
    # A vocabulary so small that its head does not count.
    even = Transformer(**SHAPE | {"vocab_size": 1})
    found = estimate_layout(even, h100(4), Layout(pipeline=4, micro_batches=8), seq_len=2048, batch_rows=8)

    assert found.pipeline_s / found.compute_s == pytest.approx(3 / 8, rel=1e-4)
    assert found.bubble == bubble(4, 8) == pytest.approx(3 / 11)


def test_uneven_stages_wait_for_the_longest():
    three = Transformer(**SHAPE | {"vocab_size": 1, "n_layers": 3})
    found = estimate_layout(three, h100(2), Layout(pipeline=2, micro_batches=4), seq_len=2048, batch_rows=4)

    assert found.compute_s + found.pipeline_s == pytest.approx(found.compute_s * (2 / 1.5) * 5 / 4, rel=1e-4)


def test_recomputation_is_another_forward_pass():
    found = estimate_layout(SMALL, h100(1), Layout(recompute=True), seq_len=64, batch_rows=4)

    assert found.recompute_s == pytest.approx(found.compute_s / 3)


def test_bytes_sent_as_counted_by_hand():
    n_params = SMALL.size(64).n_params_total
    alike = {"seq_len": 64, "batch_rows": 24}
    data = estimate_layout(SMALL, h100(4), Layout(replicate=4, micro_batches=2), **alike)
    shard = estimate_layout(SMALL, h100(4), Layout(shard=4), **alike)
    cut = estimate_layout(SMALL, h100(2), Layout(tensor=2, micro_batches=3), **alike)

    # All-reduce: each of 4 sends 2 (4 - 1) / 4 of the fp32 gradient; twice, for two parts.
    assert data.sent_bytes == {"replicate": 2 * 2 * 3 / 4 * 4 * n_params}
    # ZeRO-3: weights gathered twice in bf16, the gradient scattered in fp32.
    assert shard.sent_bytes == {"shard": 3 / 4 * (2 + 2 + 4) * n_params}
    # Megatron: four sums of the residual stream in every layer, whatever the micro-batches.
    assert cut.sent_bytes == {"tensor": 2 * 1 / 2 * 4 * 3 * (24 * 64) * 96 * 2}


def test_waiting_is_what_the_links_cannot_hide():
    slow, named = {"network_bytes_per_s": 1e6}, {"seq_len": 64, "batch_rows": 32}
    within = estimate_layout(SMALL, h100(8, link_bytes_per_s=1e15, **slow), Layout(shard=8), **named)
    across = estimate_layout(SMALL, h100(16, **slow), Layout(shard=16), **named)

    assert within.wait_s == 0
    assert across.wait_s == pytest.approx(across.sent_bytes["shard"] / 1e6 - across.compute_s)


def test_a_link_that_is_not_known_leaves_waiting_unknown():
    best = best_of(SMALL, h100(4, link_bytes_per_s=None), 24, 64)[0]

    assert best.wait_s is best.lost_s is best.step_s is None
    assert best.fits
    assert best_of(SMALL, h100(1, link_bytes_per_s=None), 24, 64)[0].lost_s == 0


def test_words_and_json():
    layout = Layout(2, 4, 8, micro_batches=3, recompute=True)

    assert words(Layout()) == "one device"
    assert words(layout) == ("2 x data, 4 x sharded, 8 x tensor, 3 micro-batches, activations recomputed")
    assert Layout(**json.loads(json.dumps(layout.to_json()))) == layout
    written = best_of(SMALL, h100(4), 24, 64)[0].to_json()
    assert Layout(**json.loads(json.dumps(written))["layout"]) == Layout(replicate=4)
