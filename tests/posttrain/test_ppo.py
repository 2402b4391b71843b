"""PPO against a bandit whose best policy is known in closed form.

One prompt, one token, a reward r(token) and a price k of a nat of KL: the best policy is

    pi*(token)  proportional to  pi_ref(token) exp(r(token) / k)

which PPO has to find from samples. Without the price all weight goes to the best token.
"""

import math
from typing import Literal

import pytest
import torch

from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.base import Conversations, Prompt
from scalelab.posttrain.add_chat_tokens import with_chat_tokens
from scalelab.posttrain.base import StageContext
from scalelab.posttrain.stages.ppo import Ppo

ASKED = ({"role": "user", "content": "?"},)
WORTH = {"a": 1.0, "b": 0.5}


class Bandit(Conversations):
    kind: Literal["bandit"] = "bandit"

    def fingerprint(self):
        return "bandit"

    def training(self, n, seed):
        return [(*ASKED, {"role": "assistant", "content": "a"})]

    def prompts(self, n, seed, purpose):
        return [Prompt(ASKED)] * n

    def tests(self, n):
        return {}

    def gold(self, prompt, answer):
        return WORTH.get(answer, 0.0)

    def is_right(self, prompt, answer):
        return None


@pytest.fixture(scope="module")
def assistant(base, tmp_path_factory):
    """The base model with markers, on the disk as an SFT stage would leave it."""
    from scalelab.posttrain.networks import merged_weights, write_model

    model = with_chat_tokens(Checkpoint.load(base), 0)
    folder = tmp_path_factory.mktemp("assistant")
    write_model(folder, model, merged_weights(model.network))
    return folder


def shares(network, chat):
    """Probability of each token after the prompt, those that are never written left out."""
    with torch.no_grad():
        logits = network(torch.tensor([chat.prompt(ASKED)]))[0, -1]
    logits[list(chat.never_written)] = -torch.inf
    return torch.softmax(logits, dim=-1)


def trained(assistant, tmp_path, **changes):
    settings = {
        "name": "ppo",
        "start": "sft",
        "steps": 40,
        "batch": 256,
        "epochs": 2,
        "minibatches": 2,
        "n_new": 1,
        "cut_off": 0.0,
        "rates": {"lr": 2e-2},
        "critic_rates": {"lr": 2e-2},
    }
    stage = Ppo.model_validate(settings | changes)
    context = StageContext(stage, Bandit(), 0, {"sft": assistant}, tmp_path)
    work = stage.create_job(context)
    return work, [work.step(k) for k in range(stage.steps)]


def test_with_a_kl_penalty_the_policy_is_the_tilted_reference(assistant, tmp_path):
    price = 0.2

    work, steps = trained(assistant, tmp_path, kl=price)

    chat = work.start.chat
    reference = shares(work.start.network, chat)
    worth = torch.zeros_like(reference)
    for letter, value in WORTH.items():
        # one token: the space that every answer begins with is a byte of its own
        worth[chat.tokenizer.encode([letter])[0][0]] = value
    best = reference * (worth / price).exp()
    best /= best.sum()
    found = shares(work.network, chat)
    at = worth.nonzero()[:, 0]
    assert found[at].tolist() == pytest.approx(best[at].tolist(), abs=0.03)
    distance = (best * (best / found).log()).nansum().item()
    assert distance < 0.02
    wanted_kl = (best * (best / reference).log()).nansum().item()
    assert steps[-1].numbers["kl"] == pytest.approx(wanted_kl, abs=0.3)
    assert steps[-1].numbers["gold"] > steps[0].numbers["gold"] + 0.3


@pytest.fixture(scope="module")
def without_price(assistant, tmp_path_factory):
    """The policy and the critic after 40 steps in which KL costs nothing, and those steps."""
    return trained(assistant, tmp_path_factory.mktemp("without"), kl=0.0)


def test_without_it_all_weight_goes_to_the_best(without_price):
    work, steps = without_price

    chat = work.start.chat
    assert shares(work.network, chat)[chat.tokenizer.encode(["a"])[0][0]] > 0.9
    assert steps[-1].numbers["entropy"] < steps[0].numbers["entropy"] / 2


def test_the_critic_learns_what_a_prompt_is_worth(without_price):
    work, _ = without_price

    tokens = torch.tensor([work.start.chat.prompt(ASKED)])
    with torch.no_grad():
        value = work.critic_net(tokens)[0, -1].item()
    assert value == pytest.approx(work.curve[-1][2], abs=0.15)


def test_an_answer_that_was_cut_off_loses_what_it_says(assistant, tmp_path):
    _, free = trained(assistant, tmp_path, steps=1)
    _, priced = trained(assistant, tmp_path, steps=1, cut_off=2.0)

    assert priced[0].numbers["score"] == pytest.approx(
        free[0].numbers["score"] - 2.0 * (1 - free[0].numbers["ended"]), abs=1e-6
    )
    assert not math.isclose(priced[0].numbers["score"], free[0].numbers["score"])


def test_flops_are_those_of_every_model_that_ran(assistant, tmp_path):
    work, steps = trained(assistant, tmp_path, steps=1, epochs=3)

    train = work.start.train_flops
    n = steps[0].tokens
    # write + policy (look, 3 x train) + critic (look, 3 x train) + reference
    assert steps[0].flops == pytest.approx(n * (4 * train / 3 + 6 * train))
