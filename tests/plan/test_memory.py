"""Memory by part: published totals, the network's own counts, the training loop's estimate."""

from dataclasses import replace

import pytest
import torch

from scalelab.errors import PlanError
from scalelab.hardware.layout import Layout
from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.network import TransformerNet
from scalelab.plan.cost.memory import (
    CONVENTIONS,
    holds_gradients,
    layers_of,
    memory,
    stage_params,
    state_bytes,
    zero_bytes,
)
from scalelab.train.memory import SHARE_OF_DEVICE
from scalelab.train.memory import state_bytes as loop_state_bytes
from scalelab.train.optimizers.adamw import AdamW

SHAPE = {
    "n_layers": 6,
    "d_model": 64,
    "n_heads": 8,
    "n_kv_heads": 4,
    "head_size": 8,
    "d_ff": 176,
    "vocab_size": 512,
}
ADAMW = AdamW(lr_matrix=1e-3, lr_embedding=1e-3, lr_head=1e-3, lr_vector=1e-3)
MODEL = Transformer(**SHAPE)
SEQ_LEN = 32


def of(layout=Layout(), rows=4, model=MODEL, **settings):  # noqa: B008 (frozen)
    return memory(model, seq_len=SEQ_LEN, rows=rows, layout=layout, **settings)


def test_16_bytes_per_parameter_make_1_12_terabytes_of_70_billion():
    """Literature: mixed precision with Adam, Rajbhandari et al. 2020."""
    assert state_bytes(70e9, "mixed") == 1.12e12
    assert {c.state for c in CONVENTIONS.values()} == {16}


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_as_published(stage, gigabytes):
    """Figure 1 of Rajbhandari et al. 2020: 7.5 billion parameters on 64 devices."""
    assert zero_bytes(7.5e9, 64, stage) == pytest.approx(gigabytes * 1e9, rel=0.02)


def test_a_shard_is_zero_3():
    found = of(Layout(shard=4), convention_name="mixed")
    n_params = MODEL.size(SEQ_LEN).n_params_total

    kept = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert kept == zero_bytes(n_params, 4, 3)


@pytest.mark.parametrize(("precision", "name", "number"), [("bf16", "ours", 2), ("fp32", "fp32", 4)])
def test_one_device_is_what_the_training_loop_expects(precision, name, number):
    found, tokens = of(convention_name=name), 4 * SEQ_LEN
    state = loop_state_bytes(MODEL.size(SEQ_LEN).n_params_total, precision, ADAMW)

    logits = {4: 4 + 4, 2: 2 + 4 + 4}[number] * MODEL.vocab_size
    assert found.total_bytes == state + tokens * (MODEL.activation_bytes_per_token(number) + logits)
    assert found.logits_bytes == logits * tokens
    assert found.working_bytes == 0


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(
    ("tied", "pipeline", "tensor"),
    [(False, 1, 1), (False, 4, 1), (False, 1, 2), (False, 4, 2), (True, 1, 1), (True, 1, 2)],
)
def test_parameters_of_a_stage_are_those_of_its_network(tied, qk_norm, pipeline, tensor):
    model = Transformer(**SHAPE, tied=tied, qk_norm=qk_norm)
    cut = {k: SHAPE[k] // tensor for k in ("n_heads", "n_kv_heads", "d_ff", "vocab_size")}
    here, start = model.model_copy(update=cut), 0
    for stage, layers in enumerate(layers_of(6, pipeline)):
        with torch.device("meta"):
            network = TransformerNet(here, range(start, start + layers))
        start += layers
        counted = sum(p.numel() for p in network.parameters())
        layout = Layout(pipeline=pipeline, tensor=tensor)
        assert sum(stage_params(model.blocks(), layout, stage)) == counted


def test_a_pipeline_holds_micro_batches_for_the_stages_after_it():
    few, many = (of(Layout(pipeline=3, micro_batches=m)) for m in (2, 12))
    layer = MODEL.activation_bytes_per_token(2) / 6

    assert few.activations_bytes == pytest.approx(2 * 2 * layer * 4 * SEQ_LEN)
    assert many.activations_bytes == pytest.approx(3 * 2 * layer * 4 * SEQ_LEN)
    assert many.stage == 0


def test_a_pipeline_keeps_its_gathered_weights_between_micro_batches():
    whole = sum(stage_params(MODEL.blocks(), Layout(pipeline=2), 0))
    often = of(Layout(shard=2, pipeline=2, micro_batches=4))
    once = of(Layout(shard=2, pipeline=2))

    assert often.working_bytes > 6 * whole
    assert once.working_bytes < often.working_bytes


@pytest.mark.parametrize(("name", "number"), [("ours", 2), ("fp32", 4)])
def test_held_gradients_are_whole_and_in_fp32_beside_gathered_weights(name, number):
    layout = Layout(shard=2, micro_batches=4)
    each, held = (of(layout, convention_name=name, held=h) for h in (False, True))
    whole, block = MODEL.size(SEQ_LEN).n_params_total, MODEL.blocks()

    assert held.working_bytes == (number + 4) * whole + number * (block.params_cut + block.params_whole)
    assert replace(held, working_bytes=each.working_bytes) == each


def test_gradients_are_held_where_the_estimate_fits(tiny_spec):
    spec, layout = tiny_spec(), Layout(shard=2, micro_batches=2)
    needed = memory(
        spec.model, seq_len=32, rows=2, layout=layout, convention_name="fp32", optimizer_bytes=8, held=True
    )
    just = needed.total_bytes / SHARE_OF_DEVICE

    assert holds_gradients(spec, layout, "fp32", just * 1.001)
    assert not holds_gradients(spec, layout, "fp32", just * 0.999)
    assert holds_gradients(spec, layout, "bf16", just * 0.999)
    assert not holds_gradients(spec, layout, "fp32", None)


def test_recomputation_keeps_the_entry_of_each_block_and_one_block():
    found, kept = of(Layout(recompute=True)), of()
    tokens, layer = 4 * SEQ_LEN, kept.activations_bytes / 6

    assert found.activations_bytes == pytest.approx(6 * tokens * 2 * 64 + layer)
    assert found.logits_bytes == kept.logits_bytes


def test_attention_weights_are_heads_times_window_twice():
    more = of(flash=False).activations_bytes - of().activations_bytes

    assert more == 4 * SEQ_LEN * 6 * 2 * (2 * 8 * SEQ_LEN)


@pytest.mark.parametrize("axis", ["shard", "tensor", "context"])
def test_no_part_grows_with_an_axis_that_shares_it(axis):
    one, two = of(Layout(replicate=2)), of(Layout(**{axis: 2}))

    for part in ("weights", "gradients", "optimizer", "working", "activations", "logits"):
        assert getattr(two, f"{part}_bytes") <= getattr(one, f"{part}_bytes")
    assert two.total_bytes < one.total_bytes


def test_offload_moves_what_is_kept_to_the_host():
    here, away = of(Layout(shard=2)), of(Layout(shard=2, offload=True))

    assert away.host_bytes == here.weights_bytes + here.gradients_bytes + here.optimizer_bytes
    assert away.total_bytes == pytest.approx(here.total_bytes - away.host_bytes)
    assert here.host_bytes == 0


def test_fits_leaves_room_for_what_is_not_counted():
    found = of()

    assert found.fits(found.total_bytes / SHARE_OF_DEVICE * 1.001)
    assert not found.fits(found.total_bytes)


def test_json_names_what_it_is():
    written = of().to_json()

    assert written["status"] == "computed"
    assert written["total_bytes"] == of().total_bytes


def test_refuses_what_it_does_not_know():
    with pytest.raises(PlanError, match=r"'fp8'[\s\S]*mixed, ours, fp32"):
        of(convention_name="fp8")
    with pytest.raises(PlanError, match="ZeRO stage 4"):
        zero_bytes(1e9, 8, 4)
