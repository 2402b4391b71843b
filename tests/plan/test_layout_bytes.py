"""Bytes and seconds of layouts for one small model, every number worked out by hand.

Heads are wider together (4 x 4) than the model (8), so that no width stands in for another:

    a block      queries and output 8 x 16, keys and values 8 x 8, gate, up and down 8 x 12,
                 two norms of 8                                    672 + 16 = 688 parameters
    beside       embedding and head 20 x 8 each, last norm 8       328
    in all       4 x 688 + 328                                     3080
    a token      leaves 4 x 8 + 2 x 48 + 16 + 4 x 12 = 192 numbers in a block and 20 logits, of
                 2 + 4 + 4 bytes each in bf16 with what is made of them (4 + 4 in fp32), and takes
                 6 x (4 x 672 + 160) + 12 x 4 x 16 x 16 = 29376 FLOPs
"""

import pytest

from scalelab.hardware.layout import Layout
from scalelab.model.transformer.config import Transformer
from scalelab.plan.cost.layout_estimate import Cluster, estimate_layout
from scalelab.plan.cost.memory import memory, stage_params, state_bytes, zero_bytes

MODEL = Transformer(n_layers=4, d_model=8, n_heads=4, n_kv_heads=2, head_size=4, d_ff=12, vocab_size=20)
N_PARAMS, BLOCK, BESIDE = 3080, 688, 328
FLOPS = 29376
SEQ_LEN = 16


def bytes_of(convention="ours", rows=1, flash=True, **layout):
    return memory(
        MODEL, seq_len=SEQ_LEN, rows=rows, layout=Layout(**layout), convention_name=convention, flash=flash
    )


def state_of(found):
    return found.weights_bytes, found.gradients_bytes, found.optimizer_bytes


def seconds_of(batch_rows=8, count=None, **layout):
    layout = Layout(**layout)
    devices = Cluster(
        count or layout.devices, memory_bytes=1e9, flops_per_s=1e9, link_bytes_per_s=1e6, per_node=8
    )
    return estimate_layout(MODEL, devices, layout, seq_len=SEQ_LEN, batch_rows=batch_rows)


def test_the_model_is_as_the_header_counts_it():
    size = MODEL.size(SEQ_LEN)

    assert size.n_params_total == N_PARAMS
    assert size.flops_per_token == FLOPS
    assert MODEL.activation_bytes_per_token(2) == 2 * 4 * 192


# Bytes.


@pytest.mark.parametrize(
    ("convention", "weights", "gradients", "optimizer"),
    [
        ("mixed", 2, 2, 4 + 4 + 4),  # bf16 both; fp32 copy and two moments
        ("ours", 4, 4, 4 + 4),  # fp32 both; two moments
        ("fp32", 4, 4, 4 + 4),
    ],
)
def test_bytes_a_parameter_when_two_devices_hold_copies(convention, weights, gradients, optimizer):
    found = bytes_of(convention, replicate=2)

    assert state_of(found) == (weights * N_PARAMS, gradients * N_PARAMS, optimizer * N_PARAMS)
    assert state_bytes(N_PARAMS, convention) == 16 * N_PARAMS


def test_one_device_has_bf16_copies_of_weights_and_gradients_beside_them():
    assert state_of(bytes_of("ours")) == (6 * N_PARAMS, 6 * N_PARAMS, 8 * N_PARAMS)
    assert bytes_of("ours").working_bytes == 0
    assert state_of(bytes_of("mixed")) == (2 * N_PARAMS, 2 * N_PARAMS, 12 * N_PARAMS)


@pytest.mark.parametrize(
    ("stage", "bytes_a_parameter"),
    [
        (0, 16),
        (1, 4 + 12 / 8),  # the optimizer's 12 are shared
        (2, 2 + 14 / 8),  # and the gradients' 2
        (3, 16 / 8),  # and the weights' 2
    ],
)
def test_zero_on_eight_devices(stage, bytes_a_parameter):
    """Table 1 of Rajbhandari et al. 2020: 4P + 12P/n, 2P + 14P/n, 16P/n."""
    assert zero_bytes(1e9, 8, stage) == bytes_a_parameter * 1e9


def test_a_shard_of_four_keeps_a_quarter_of_everything_and_gathers_two_blocks():
    found = bytes_of(shard=4)

    assert state_of(found) == (N_PARAMS, N_PARAMS, 2 * N_PARAMS)  # 4, 4 and 8 over 4
    # bf16 copies of what lies beside and of two blocks; a block's gradient in bf16 and fp32.
    assert found.working_bytes == 2 * (BESIDE + 2 * BLOCK) + (2 + 4) * BLOCK


def test_the_last_stage_has_the_head_and_the_first_the_embedding():
    layout = Layout(pipeline=2, micro_batches=2)

    assert stage_params(MODEL.blocks(), layout, 0) == (2 * BLOCK, 160)
    assert stage_params(MODEL.blocks(), layout, 1) == (2 * BLOCK, 160 + 8)


@pytest.mark.parametrize("micro_batches", [2, 8])
def test_the_first_of_two_stages_holds_two_micro_batches_however_many_there_are(micro_batches):
    found = bytes_of(pipeline=2, micro_batches=micro_batches)

    here = 2 * BLOCK + 160
    assert found.stage == 0
    assert found.activations_bytes == SEQ_LEN * 2 * 2 * 192 * 2  # 2 in flight, 2 layers, 2 bytes
    assert found.logits_bytes == 0
    assert sum(state_of(found)) == 16 * here
    # Between micro-batches: copies and sums of the stage, and one block that is gathered ahead.
    assert found.working_bytes == (2 + 4) * here + 2 * BLOCK


def test_matrices_are_cut_over_tensor_and_norms_are_not():
    found = bytes_of(tensor=2)

    block, beside = 672 / 2 + 16, 320 / 2 + 8
    assert sum(state_of(found)) == 16 * (4 * block + beside)
    # Norms' inputs and outputs 4 x 8 are whole; 160 other numbers are cut.
    assert found.activations_bytes == SEQ_LEN * 4 * (32 + 160 / 2) * 2
    assert found.logits_bytes == 10 * 20 / 2 * SEQ_LEN


def test_logits_are_there_in_the_working_precision_and_twice_in_fp32():
    assert bytes_of(rows=3).logits_bytes == (2 + 4 + 4) * 20 * 3 * SEQ_LEN
    assert bytes_of("fp32", rows=3).logits_bytes == (4 + 4) * 20 * 3 * SEQ_LEN


@pytest.mark.parametrize(("convention", "logits", "number"), [("ours", 10, 2), ("fp32", 8, 4)])
def test_a_loss_in_chunks_has_the_logits_of_one_chunk(monkeypatch, convention, logits, number):
    """48 tokens in chunks of 5; gradients of 48 x 8 numbers, and of the head, 20 x 8, also summed in fp32."""
    monkeypatch.setattr("scalelab.train.memory.chunk_rows", lambda n, vocabulary: 5)
    plain = memory(
        MODEL, seq_len=SEQ_LEN, rows=3, layout=Layout(replicate=2), convention_name=convention,
        cross_entropy="plain", device_bytes=1.0,
    )  # fmt: skip
    found = memory(
        MODEL, seq_len=SEQ_LEN, rows=3, layout=Layout(replicate=2), convention_name=convention,
        cross_entropy="chunked",
    )  # fmt: skip

    assert plain.logits_bytes == logits * 20 * 48
    assert found.logits_bytes == logits * 20 * 5 + number * 48 * 8 + (4 + number) * 20 * 8
    assert found.activations_bytes == plain.activations_bytes


@pytest.mark.parametrize(
    ("layout", "logits"),
    [
        ({"replicate": 2}, 200 * 5 + 2 * 8 * 64 + 6 * 160),
        ({"shard": 2}, 200 * 5 + 2 * 8 * 64 + 6 * 160),
        ({"context": 2}, 200 * 5 + 2 * 8 * 64 / 2 + 6 * 160),
        ({"tensor": 2}, 200 * 64 / 2),
    ],
)
def test_by_itself_a_loss_is_in_chunks_on_a_small_device_unless_the_vocabulary_is_cut(
    monkeypatch, layout, logits
):
    """4 x 16 = 64 tokens, whose plain logits take 10 x 20 bytes each."""
    monkeypatch.setattr("scalelab.train.memory.chunk_rows", lambda n, vocabulary: 5)
    plain, small = (
        memory(MODEL, seq_len=SEQ_LEN, rows=4, layout=Layout(**layout), device_bytes=room).logits_bytes
        for room in (16 * 200 * 64, 16 * 200 * 64 / 2 - 1)
    )

    assert plain == 200 * 64 / (layout.get("tensor", 1) * layout.get("context", 1))
    assert small == logits


def test_without_flash_scores_and_shares_of_every_head_are_kept():
    """4 heads x 16 tokens, twice, in each of 4 layers, 2 bytes each."""
    more = bytes_of(flash=False).activations_bytes - bytes_of().activations_bytes

    assert more == SEQ_LEN * 4 * (2 * 4 * 16) * 2


def test_recomputation_keeps_each_blocks_input_and_one_block_whole():
    found = bytes_of(recompute=True)

    assert found.activations_bytes == SEQ_LEN * (4 * 8 * 2 + 192 * 2)


def test_a_device_is_filled_to_four_fifths():
    found = bytes_of("mixed")
    total = 16 * N_PARAMS + SEQ_LEN * (4 * 192 * 2 + 200)

    assert found.total_bytes == total
    assert found.fits(total / 0.8 + 1)
    assert not found.fits(total / 0.8 - 1)


# Seconds and what is sent.


def test_a_step_is_its_flops_over_what_all_devices_do():
    """8 windows of 16 tokens on 2 devices of 1e9 FLOP/s."""
    assert seconds_of(replicate=2).compute_s == pytest.approx(8 * 16 * FLOPS / 2e9)


def test_recomputation_adds_the_forward_third():
    found = seconds_of(replicate=2, recompute=True)

    assert found.recompute_s == pytest.approx(8 * 16 * FLOPS / 2e9 / 3)


@pytest.mark.parametrize(("stages", "micro", "share"), [(4, 8, 3 / 11), (2, 1, 1 / 2), (2, 8, 1 / 9)])
def test_a_bubble_is_the_turns_in_which_a_stage_has_nothing(stages, micro, share):
    """Of m + p - 1 turns p - 1: Narayanan et al. 2021, section 2.2."""
    layout = {"pipeline": stages, "micro_batches": micro}

    assert seconds_of(batch_rows=8, **layout).bubble == pytest.approx(share)


def test_the_stage_with_the_head_is_the_slowest():
    """The head takes 6 x 160 = 960 FLOPs a token, each layer (29376 - 960) / 4 = 7104."""
    found = seconds_of(pipeline=2, micro_batches=4)

    compute = 8 * 16 * FLOPS / 2e9
    slowest = (2 * 7104 + 960) / (FLOPS / 2)
    assert found.pipeline_s == pytest.approx(compute * (slowest * 5 / 4 - 1))


@pytest.mark.parametrize(
    ("layout", "sent"),
    [
        # An all-reduce of the fp32 gradient: each of 2 sends it once, 2 x 1/2 x 4 bytes.
        ({"replicate": 2}, {"replicate": 2 * 4 * N_PARAMS / 2}),
        # Half of the weights gathered twice in bf16, half of the gradient scattered in fp32.
        ({"shard": 2}, {"shard": (2 * 2 + 4) * N_PARAMS / 2}),
        # 4 sums a layer of 128 tokens x 8 channels in bf16, each 2 x 1/2 of its bytes.
        ({"tensor": 2}, {"tensor": 4 * 4 * 128 * 8 * 2}),
        # Recomputing makes two more.
        ({"tensor": 2, "recompute": True}, {"tensor": 6 * 4 * 128 * 8 * 2}),
        # Activations there, gradients back: 128 tokens x 8 channels in bf16.
        ({"pipeline": 2, "micro_batches": 2}, {"pipeline": 2 * 128 * 8 * 2}),
        # Keys and values, 2 x 2 heads x 4, of 64 tokens in each of 4 layers, half of them sent,
        # on the way there and twice on the way back.
        ({"context": 2}, {"context": 3 * 4 * 64 * 16 * 2 / 2}),
        # Beside the shard's: fp32 weights to the device twice and a gradient to the host.
        (
            {"shard": 2, "offload": True},
            {"shard": (2 * 2 + 4) * N_PARAMS / 2, "offload": (4 + 4 + 4) * N_PARAMS / 2},
        ),
        # Two micro-batches: two sums of the gradient.
        ({"replicate": 2, "micro_batches": 2}, {"replicate": 2 * 2 * 4 * N_PARAMS / 2}),
    ],
)
def test_bytes_that_a_device_sends_in_a_step(layout, sent):
    assert seconds_of(**layout).sent_bytes == pytest.approx(sent)


def test_sums_of_gradients_hide_behind_computing_and_sums_of_activations_do_not():
    """3080 x 8 / 2 = 12320 bytes over 1e6 bytes a second take 12.3 ms; a step computes 1.9 ms."""
    hidden, open_ = seconds_of(replicate=2), seconds_of(tensor=2)

    compute = 8 * 16 * FLOPS / 2e9
    assert hidden.wait_s == pytest.approx(12320 / 1e6 - compute)
    assert open_.wait_s == pytest.approx(4 * 4 * 128 * 8 * 2 / 1e6)


def test_a_group_beyond_its_node_goes_over_the_network():
    """16 copies over nodes of 8: 15/16 of 2 x 4 bytes a parameter at 50 GB/s, hidden."""
    devices = Cluster(
        16, memory_bytes=1e9, flops_per_s=1e18, link_bytes_per_s=1e3, per_node=8, network_bytes_per_s=1e6
    )

    found = estimate_layout(MODEL, devices, Layout(replicate=16), seq_len=SEQ_LEN, batch_rows=16)

    assert found.wait_s == pytest.approx(15 / 16 * 2 * 4 * N_PARAMS / 1e6, rel=1e-6)
