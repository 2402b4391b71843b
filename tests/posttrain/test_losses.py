"""Losses against closed forms, by hand and by finite differences."""

import math

import pytest
import torch

from scalelab.posttrain import losses


def test_token_logps_are_those_of_a_softmax():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[0, 4, 2], [1, 1, 3]])

    found = losses.token_logps(logits, targets)

    wanted = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert torch.allclose(found.double(), wanted, atol=1e-6)


def test_sft_counts_only_what_the_mask_counts():
    logps = torch.tensor([[-1.0, -2.0, -30.0], [-4.0, -50.0, -60.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])

    assert losses.sft(logps, mask).item() == pytest.approx((1 + 2 + 4) / 3)


def test_reward_loss_of_equal_numbers_is_a_coin_s():
    same = torch.tensor([3.0, -1.0])

    assert losses.reward(same, same).item() == pytest.approx(math.log(2))
    assert losses.reward(torch.tensor([2.0]), torch.tensor([0.0])).item() == pytest.approx(
        math.log1p(math.exp(-2.0))
    )


def test_dpo_is_the_formula_of_the_paper():
    chosen, rejected = torch.tensor([-3.0, -1.0]), torch.tensor([-4.0, -6.0])
    chosen_ref, rejected_ref = torch.tensor([-3.5, -2.0]), torch.tensor([-3.0, -6.5])

    found = losses.dpo(chosen, rejected, chosen_ref, rejected_ref, beta=0.2)

    margins = [(-3.0 + 3.5) - (-4.0 + 3.0), (-1.0 + 2.0) - (-6.0 + 6.5)]
    wanted = sum(math.log1p(math.exp(-0.2 * m)) for m in margins) / 2
    assert found.item() == pytest.approx(wanted)


def test_dpo_pushes_hardest_where_the_reference_is_most_wrong():
    chosen = torch.tensor([-5.0, -5.0], requires_grad=True)
    zero = torch.zeros(2)

    losses.dpo(chosen, torch.tensor([-1.0, -9.0]), zero, zero, beta=1.0).backward()

    assert chosen.grad[0] < chosen.grad[1] < 0


def test_advantages_of_lambda_one_are_returns_less_values():
    rewards = torch.tensor([[0.0, 0.0, 0.5, -0.25, 2.0, 9.0]])
    values = torch.tensor([[7.0, 0.3, 0.1, -0.2, 0.4, 8.0]])
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    gamma = 0.9

    found, returns = losses.advantages(rewards, values, mask, gamma, 1.0)

    inside = [0.0, 0.5, -0.25, 2.0]
    wanted = [sum(gamma**j * r for j, r in enumerate(inside[i:])) for i in range(4)]
    assert returns[0, 1:5].tolist() == pytest.approx(wanted, abs=1e-6)
    assert found[0, 1:5].tolist() == pytest.approx(
        [w - v for w, v in zip(wanted, [0.3, 0.1, -0.2, 0.4], strict=True)], abs=1e-6
    )
    assert found[0, 0] == found[0, 5] == 0.0


def test_advantages_of_lambda_zero_are_one_step_surprises():
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.25]])
    mask = torch.ones(1, 2)

    found, _ = losses.advantages(rewards, values, mask, 0.5, 0.0)

    assert found[0].tolist() == pytest.approx([1 + 0.5 * 0.25 - 0.5, 2 - 0.25])


def test_whitened_advantages_have_mean_zero_and_spread_one():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(6) < torch.tensor([[3], [6], [1], [2]])).float()

    found = losses.whitened(x, mask)[mask > 0]

    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_the_policy_loss_at_the_old_policy_is_minus_the_advantage():
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages, mask = torch.tensor([[2.0, -1.0]]), torch.ones(1, 2)

    loss, clipped = losses.policy(logps, logps.detach(), advantages, mask, 0.2)
    loss.backward()

    assert loss.item() == pytest.approx(-0.5)
    assert clipped.item() == 0.0
    assert logps.grad[0].tolist() == pytest.approx([-1.0, 0.5])


@pytest.mark.parametrize(
    ("ratio", "advantage", "is_pushed"),
    [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (0.5, -1.0, False)],
)
def test_a_ratio_beyond_the_clip_is_pushed_only_back(ratio, advantage, is_pushed):
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)

    loss, clipped = losses.policy(
        logps, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), 0.2
    )
    loss.backward()

    assert clipped.item() == 1.0
    assert (logps.grad.abs().item() > 0) == is_pushed


def test_the_value_loss_takes_the_larger_error():
    values, old, returns = torch.tensor([[2.0]]), torch.tensor([[0.0]]), torch.tensor([[2.0]])

    assert losses.value(values, old, returns, torch.ones(1, 1), 0.2).item() == pytest.approx(0.5 * 1.8**2)


def test_kl_is_never_negative_and_right_on_average():
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.2, 0.5, 0.3])
    q = torch.tensor([0.4, 0.4, 0.2])
    drawn = torch.multinomial(p, 200_000, replacement=True, generator=generator)

    found = losses.kl(p.log()[drawn], q.log()[drawn])

    assert found.min() >= 0
    assert found.mean().item() == pytest.approx((p * (p / q).log()).sum().item(), rel=0.03)


def test_entropy_of_equal_shares_is_ln_n():
    assert losses.entropy(torch.zeros(1, 1, 8)).item() == pytest.approx(math.log(8))
