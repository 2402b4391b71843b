"""Updates of a single weight worked out by hand, and batches that were cut unevenly."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from scalelab.hardware.device import Device
from scalelab.posttrain.networks import TrainableModel
from scalelab.train.engines.single import SingleEngine
from scalelab.train.optimizers.adamw import AdamW, AdamWUniform
from scalelab.train.optimizers.flat import FlatOptimizer

KINDS = ("matrix", "embedding", "head", "vector")
SPEC = AdamW(
    lr_matrix=0.1,
    lr_embedding=0.2,
    lr_head=0.3,
    lr_vector=0.4,
    beta1=0.5,
    beta2=0.75,
    eps=0.1,
    weight_decay=0.5,
    grad_clip=None,
)


class Four(nn.Module):
    """One number of each kind, 1 at the start."""

    def __init__(self):
        super().__init__()
        for kind in KINDS:
            self.register_parameter(kind, nn.Parameter(torch.ones(1)))


@pytest.fixture
def optimizer():
    """A function that makes the optimizer of four numbers, and those by kind."""

    def make(working=torch.float32, **changes):
        net = Four()
        flat = FlatOptimizer(net, {k: k for k in KINDS}, SPEC.model_copy(update=changes), working)
        return flat, net

    return make


def updated(flat, net, gradients, factors):
    """The four numbers after updates with the same gradient for all of them."""
    for gradient, factor in zip(gradients, factors, strict=True):
        for parameter in net.parameters():
            parameter.grad.fill_(gradient)
        flat.gather()
        flat.step(factor)
    return {name: weight.item() for name, weight in flat.weights().items()}


def test_two_updates_by_hand_for_every_kind_of_weight(optimizer):
    """AdamW with beta .5 and .75 and epsilon .1, gradients 2 and then -1, factors 1 and .5."""
    found = updated(*optimizer(), gradients=(2.0, -1.0), factors=(1.0, 0.5))

    # 1: m = .5 x 2 = 1, v = .25 x 4 = 1; over 1 - beta: 2 and 4; step 2 / (2 + .1).
    # 2: m = .5 x 1 - .5 = 0, so only the decay moves the weight.
    first = 2 / 2.1
    for kind, rate in zip(KINDS, (0.1, 0.2, 0.3, 0.4), strict=True):
        decay = 0.0 if kind == "vector" else 0.5
        after_one = 1 * (1 - rate * decay) - rate * first
        after_two = after_one * (1 - 0.5 * rate * decay)
        assert found[kind] == pytest.approx(after_two, rel=1e-6), kind


def test_the_second_moment_forgets_by_its_own_beta(optimizer):
    """Gradients 2 and 1 at full rate, so that both moments show in the second step."""
    found = updated(*optimizer(), gradients=(2.0, 1.0), factors=(1.0, 1.0))

    # 2: m = .5 x 1 + .5 x 1 = 1 over 1 - .25; v = .75 x 1 + .25 x 1 = 1 over 1 - .5625.
    second = (1 / 0.75) / (math.sqrt(1 / 0.4375) + 0.1)
    assert found["vector"] == pytest.approx(1 - 0.4 * (2 / 2.1) - 0.4 * second, rel=1e-6)


def test_the_second_moment_is_not_held_at_its_largest(optimizer):
    """AMSGrad would divide the last, small gradient by the root of the first, large one."""
    found = updated(*optimizer(), gradients=(8.0, *[0.5] * 12), factors=(*[0.0] * 12, 1.0))

    m, v = 0.0, 0.0
    for gradient in (8.0, *[0.5] * 12):
        m, v = 0.5 * m + 0.5 * gradient, 0.75 * v + 0.25 * gradient**2
    m, v = m / (1 - 0.5**13), v / (1 - 0.75**13)
    assert found["vector"] == pytest.approx(1 - 0.4 * m / (math.sqrt(v) + 0.1), rel=1e-5)


def test_a_gradient_over_the_clip_is_cut_to_it_and_one_below_is_left(optimizer):
    """Four gradients of 3 have the norm 6; of .3, .6. Clipped at 1 they become .5 and stay .3."""
    large, small = (updated(*optimizer(grad_clip=1.0), gradients=(g,), factors=(1.0,)) for g in (3.0, 0.3))

    # 1e-6 beside the norm and single precision leave five digits.
    assert large["vector"] == pytest.approx(1 - 0.4 * 0.5 / (0.5 + 0.1), rel=1e-5)
    assert small["vector"] == pytest.approx(1 - 0.4 * 0.3 / (0.3 + 0.1), rel=1e-5)


@pytest.mark.parametrize("working", [torch.float32, torch.bfloat16])
def test_an_update_leaves_no_gradient_behind(optimizer, working):
    flat, net = optimizer(working)

    updated(flat, net, gradients=(3.0,), factors=(1.0,))

    assert flat.norm().item() == 0
    assert not any(parameter.grad.any() for parameter in net.parameters())


def test_gradients_of_bf16_micro_batches_add_up(optimizer):
    """2 and 1 make 3; what each was in bf16 is exact."""
    flat, net = optimizer(torch.bfloat16)
    for gradient in (2.0, 1.0):
        for parameter in net.parameters():
            parameter.grad.fill_(gradient)
        flat.gather()

    assert flat.norm().item() == pytest.approx(6.0)  # four of 3
    assert not any(parameter.grad.any() for parameter in net.parameters())


def test_the_first_update_after_going_on_corrects_for_the_updates_made(optimizer):
    """Moments m = 1, v = 1 after one update, as in the first test; the second follows."""
    straight, halted = optimizer(), optimizer()
    wanted = updated(*straight, gradients=(2.0, 1.0), factors=(1.0, 1.0))

    flat, net = halted
    updated(flat, net, gradients=(2.0,), factors=(1.0,))
    flat.restored(1)
    found = updated(flat, net, gradients=(1.0,), factors=(1.0,))

    assert found == wanted
    assert flat.updates == 2


@pytest.mark.parametrize("rows", [1, 3, 4, 8])
def test_micro_batches_of_any_size_make_the_gradient_of_the_whole_batch(tiny_spec, rows):
    """8 windows in micro-batches of 3 are 3 + 3 + 2: the last one weighs less."""
    spec, device = tiny_spec(), Device("cpu", "cpu", None)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(257, (8, 33), generator=generator)
    whole, parts = (SingleEngine(spec, device, "fp32", n) for n in (8, rows))
    for engine in (whole, parts):  # a head of zeros passes no gradient on
        with torch.no_grad():
            engine.network.head.normal_(std=0.1, generator=generator.manual_seed(1))

    losses = [engine.gradient(batch).item() for engine in (whole, parts)]

    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    # Sums in another order: 1e-5 of the largest gradient.
    largest = whole.optimizer.gradient.abs().max().item()
    assert torch.allclose(whole.optimizer.gradient, parts.optimizer.gradient, atol=1e-5 * largest)


def test_post_training_rises_over_its_warmup_and_falls_linearly_to_zero():
    """10 updates with a warmup of .2: 1/2, 1, then 8/8, 7/8, ... 1/8 of the rate."""
    rates = AdamWUniform(lr=0.1, beta2=0.5, weight_decay=0.0, grad_clip=None)
    net = Four()
    trainee = TrainableModel(net, {k: "matrix" for k in KINDS}, rates, n_steps=10, warmup=0.2)
    places = [1.0]

    for k in range(10):
        for parameter in net.parameters():
            parameter.grad.fill_(1.0)
        trainee.update(k)
        places.append(net.matrix.item())

    # A constant gradient of 1 makes every step of Adam as long as its rate.
    factors = [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    moved = [before - after for before, after in pairwise(places)]
    assert moved == pytest.approx([0.1 * f for f in factors], rel=1e-4)


def test_post_training_has_one_rate_for_every_kind_of_weight():
    spec = AdamWUniform(lr=0.003, beta2=0.9, weight_decay=0.07, grad_clip=2.0).spec()

    assert {spec.lr_matrix, spec.lr_embedding, spec.lr_head, spec.lr_vector} == {0.003}
    assert (spec.beta2, spec.weight_decay, spec.grad_clip) == (0.9, 0.07, 2.0)
