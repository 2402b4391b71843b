"""FLOPs, bytes, losses and masks of every method on conversations whose tokens can be counted.

The model has one layer of width 16, two heads of 8, a gate of 32 and 261 tokens (256 bytes, the
end, four markers), and a context of 128. A text is its bytes after one space; a question stands
between two markers, an answer ends with the end token.

    products   4 x 16 x 16 + 3 x 16 x 32 + 261 x 16                            6736 weights
    in all     those, the embedding 261 x 16, three norms of 16               10960 weights
    a token    6 x 6736 + 12 x 1 x 16 x 128 = 64992 FLOPs, a third of them forward
    in fp32    leaves 4 x (4 x 16 + 2 x 64 + 16 + 4 x 32) + 8 x 261 = 3432 bytes behind
"""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.base import Conversations, Prompt
from scalelab.posttrain.add_chat_tokens import with_chat_tokens
from scalelab.posttrain.base import StageContext
from scalelab.posttrain.networks import merged_weights, write_model
from scalelab.posttrain.run import max_flops
from scalelab.posttrain.stages.best_of import BestOf, best_of
from scalelab.posttrain.stages.dpo import Dpo, answer_logps
from scalelab.posttrain.stages.ppo import Ppo
from scalelab.posttrain.stages.reward import Reward, end_scores
from scalelab.posttrain.stages.sft import Sft, collate

TRAIN = 64992
FORWARD = 64992 // 3
N_PARAMS, N_SCALAR = 10960, 10960 - 261 * 16 + 16  # a row of 16 in place of the head
LEFT_BEHIND = 3432
RATES = {"lr": 1e-3}
QUESTION = ({"role": "user", "content": "hi"},)
N_QUESTION = 1 + 3 + 1  # marker, " hi", marker
SAID = (*QUESTION, {"role": "assistant", "content": "yes"})
N_SAID, N_ANSWER = N_QUESTION + 5, 5  # " yes" and the end


class Yes(Conversations):
    """One question, to which a longer answer is the better one."""

    kind: Literal["yes"] = "yes"

    def fingerprint(self):
        return "yes"

    def training(self, n, seed):
        return [SAID] * n

    def prompts(self, n, seed, purpose):
        return [Prompt(QUESTION)] * n

    def tests(self, n):
        return {}

    def gold(self, prompt, answer):
        return float(len(answer))

    def is_right(self, prompt, answer):
        return None


def test_chat_tokens_add_rows_to_the_vocabulary_alone(base):
    """Even where as many positions are learned as there are tokens."""
    model = Checkpoint.load(base)
    n = model.config.vocab_size
    config = model.config.model_copy(update={"positions": "learned", "max_positions": n})
    network = config.network()
    network.reset(0)

    longer = with_chat_tokens(replace(model, config=config, network=network), 0)

    state = longer.network.state_dict()
    assert torch.equal(state["positions"], network.positions)
    assert len(state["embedding"]) == len(state["head"]) == n + 4


@pytest.fixture(scope="module")
def paths(base, tmp_path_factory):
    """A model that answers, and a reward model of the same size whose numbers differ."""
    model = with_chat_tokens(Checkpoint.load(base), 0)
    found = {"sft": tmp_path_factory.mktemp("sft"), "judge": tmp_path_factory.mktemp("judge")}
    write_model(found["sft"], model, merged_weights(model.network))
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"q{i:02}", "chosen": "yes", "rejected": "no!!"} for i in range(30)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = Reward(name="judge", start="sft", pairs=str(pairs), batch=4, rates=RATES)
    work = stage.create_job(StageContext(stage, Yes(), 0, found, found["judge"]))
    with torch.no_grad():
        work.net.score.normal_(generator=torch.Generator().manual_seed(0))
    work._model().write(found["judge"])
    return found | {"base": base, "pairs": pairs}


@pytest.fixture
def work(paths, tmp_path):
    """A function: the work of a stage of some kind."""

    def make(kind, **settings):
        stage = kind.model_validate({"name": "s", "start": "sft", "rates": RATES} | settings)
        return stage.create_job(StageContext(stage, Yes(), 0, paths, tmp_path))

    return make


def on_pairs(paths, **settings):
    return {"pairs": str(paths["pairs"]), "batch": 4, "epochs": 0.2} | settings


def move(network, seed=0):
    """Every weight moved a little, so that a policy is not its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


def logps_one_by_one(network, row):
    """Log-probability of each token of a row but the first, in double precision."""
    with torch.no_grad():
        logits = network(torch.tensor([row[:-1]]))[0].double()
    return logits.log_softmax(-1)[torch.arange(len(row) - 1), torch.tensor(row[1:])]


# FLOPs.


def test_a_model_costs_what_the_header_counts(paths):
    model = Checkpoint.load(paths["sft"])

    assert sum(p.numel() for p in model.network.parameters()) == N_PARAMS
    assert (model.train_flops, model.forward_flops) == (TRAIN, FORWARD)


def test_sft_trains_on_every_token_of_every_example(work):
    found = work(Sft, start="base", examples=4, batch=4).step(0)

    assert found.tokens == 4 * N_SAID
    assert found.flops == 4 * N_SAID * TRAIN


def test_dpo_trains_on_both_answers_after_their_prompt_and_asks_the_reference_once(work, paths):
    """A prompt of 6 tokens (marker, " q00", marker), answers of 5 and 6."""
    dpo = work(Dpo, **on_pairs(paths))

    found = dpo.step(0)

    pair = 2 * 6 + 5 + 6
    assert found.tokens == 4 * pair
    assert found.flops == 4 * pair * TRAIN
    assert dpo._reference_flops == 30 * pair * FORWARD  # of all pairs, held-out ones among them


def test_a_reward_model_trains_on_both_answers(work, paths):
    found = work(Reward, **on_pairs(paths)).step(0)

    assert found.flops == 4 * (2 * 6 + 5 + 6) * TRAIN


@pytest.mark.parametrize(("reward", "looks"), [("gold", 4), ("judge", 5)])
def test_ppo_writes_looks_with_every_model_and_trains_two(work, reward, looks):
    """Writing, policy, critic, reference and reward model look; two train in three epochs."""
    found = work(Ppo, steps=1, batch=4, epochs=3, n_new=4, reward=reward).step(0)

    n = found.tokens
    assert 4 * (N_QUESTION + 1) <= n <= 4 * (N_QUESTION + 4)
    assert found.flops == n * (looks * FORWARD + 2 * 3 * TRAIN)
    assert found.flops_by["write"] == found.flops_by["reference"] == n * FORWARD
    assert found.flops_by["policy"] == found.flops_by["critic"] == n * (FORWARD + 3 * TRAIN)
    assert found.flops_by["reward"] == (n * FORWARD if reward == "judge" else 0)


def test_best_of_writes_and_scores(paths):
    stage = BestOf(name="b", start="sft", proxy="judge", n=(1, 2), draws=2, prompts=3, n_new=4)
    choosing = stage.create_job(StageContext(stage, Yes(), 0, paths, None))

    found = choosing.step(0)

    assert found.flops == found.tokens * 2 * FORWARD


@pytest.mark.parametrize(
    ("kind", "settings", "rows", "passes"),
    [
        # Forward and backward: three passes.
        (Sft, {"start": "base", "examples": 40, "epochs": 1.5}, 60, 3),
        (Sft, {"start": "base", "examples": 4, "batch": 8, "min_steps": 10}, 80, 3),
        # Two answers a pair; the reference's look beside the three.
        (Dpo, {"pairs": "p", "examples": 40, "epochs": 2}, 160, 4),
        (Reward, {"pairs": "p", "examples": 40}, 80, 3),
        # Write, policy, critic, reference, and three for each of two models and epochs.
        (Ppo, {"steps": 5, "batch": 8, "epochs": 2}, 40, 4 + 2 * 3 * 2),
        (Ppo, {"steps": 5, "batch": 8, "epochs": 1, "reward": "judge"}, 40, 5 + 2 * 3),
    ],
)
def test_the_plan_bounds_a_stage_by_rows_of_a_full_context(kind, settings, rows, passes):
    stage = kind.model_validate({"name": "s", "start": "sft", "rates": RATES} | settings)
    planned = SimpleNamespace(spec=SimpleNamespace(stage=stage))

    most = max_flops(planned, {"seq_len": 128, "flops_per_token": TRAIN})

    assert most == pytest.approx(rows * 128 * passes * FORWARD)


# Bytes.


def test_sft_holds_weights_gradients_and_two_moments(work, tmp_path):
    found = work(Sft, start="base", examples=8, batch=4).finish(tmp_path).memory_bytes

    assert found == {"trained": 16 * N_PARAMS, "activations": 4 * N_SAID * LEFT_BEHIND}


def test_low_rank_changes_hold_their_own_weights_only(work, tmp_path):
    """Of rank 2 on 48 x 16, 16 x 16, 64 x 16 and 16 x 32: 2 x (64 + 32 + 80 + 48) weights."""
    found = work(Sft, start="base", examples=4, batch=4, lora={"rank": 2}).finish(tmp_path)

    assert found.memory_bytes["trained"] == 16 * 2 * (64 + 32 + 80 + 48)


def test_dpo_holds_a_reference_beside_it(work, paths, tmp_path):
    found = work(Dpo, **on_pairs(paths)).finish(tmp_path).memory_bytes

    assert found == {
        "trained": 16 * N_PARAMS,
        "reference": 4 * N_PARAMS,
        "activations": 2 * 4 * (6 + 6) * LEFT_BEHIND,
    }


def test_a_reward_model_has_a_row_in_place_of_its_head(work, paths, tmp_path):
    found = work(Reward, **on_pairs(paths)).finish(tmp_path).memory_bytes

    assert found["trained"] == 16 * N_SCALAR
    assert found["activations"] == 2 * 4 * (6 + 6) * LEFT_BEHIND


def test_ppo_holds_four_models(work, tmp_path):
    ppo = work(Ppo, steps=1, batch=4, epochs=1, minibatches=2, n_new=2, reward="judge")
    ppo.step(0)

    found = ppo.finish(tmp_path).memory_bytes

    assert found == {
        "policy": 16 * N_PARAMS,
        "critic": 16 * N_SCALAR,
        "reference": 4 * N_PARAMS,
        "reward": 4 * N_SCALAR,
        "activations": 4 * 128 // 2 * LEFT_BEHIND,  # two answers of a full context at once
    }


# Losses, masks and KL on real rows.


def test_sft_learns_the_answers_tokens_and_their_end(work):
    sft = work(Sft, start="base", examples=2, batch=2)
    tokens, counts, _ = collate([(e,) for e in sft.examples], sft.start.chat.pad, torch.device("cpu"))

    assert counts.tolist() == [[0] * N_QUESTION + [1] * N_ANSWER] * 2
    assert tokens[0, -1] == sft.start.chat.end


@pytest.mark.parametrize("packing", [False, True])
def test_sft_loss_is_the_mean_of_each_answers_tokens_alone(work, packing):
    """Whether or not three examples share a row."""
    sft = work(Sft, start="base", examples=3, batch=3, packing=packing)
    row = list(sft.examples[0].tokens)
    wanted = -logps_one_by_one(sft.network, row)[-N_ANSWER:].mean().item()

    found = sft.step(0)

    assert found.numbers["loss"] == pytest.approx(wanted, rel=1e-5)


def test_an_answers_log_probability_leaves_out_prompt_and_padding(work, paths):
    dpo = work(Dpo, **on_pairs(paths))
    move(dpo.network)
    batch = list(dpo.pairs.train[:3])

    with torch.no_grad():
        sums, n_chosen = answer_logps(dpo.network, batch, dpo.start)

    rows = [(p.prompt, p.chosen) for p in batch] + [(p.prompt, p.rejected) for p in batch]
    wanted = [
        logps_one_by_one(dpo.network, [*prompt, *answer])[-len(answer) :].sum().item()
        for prompt, answer in rows
    ]
    assert sums.tolist() == pytest.approx(wanted, rel=1e-5)
    assert n_chosen == 3 * 5


def test_dpo_begins_at_ln_2_and_adds_the_better_answers_loss_per_token(work, paths):
    plain, held = (work(Dpo, **on_pairs(paths, sft_weight=weight)) for weight in (0.0, 0.5))
    batch = [held.pairs.train[i] for i in held.order[0]]
    nll = [-logps_one_by_one(held.network, [*p.prompt, *p.chosen])[-5:].sum().item() for p in batch]

    losses = plain.step(0).numbers["loss"], held.step(0).numbers["loss"]

    assert losses[0] == pytest.approx(math.log(2), rel=1e-5)  # no margin over the reference yet
    assert losses[1] == pytest.approx(math.log(2) + 0.5 * sum(nll) / (4 * 5), rel=1e-5)


def test_a_reward_is_read_at_the_last_token_of_its_row(work, paths):
    reward = work(Reward, **on_pairs(paths))
    move(reward.net)
    rows = [[3, 4, 5, 6], [7, 8]]

    with torch.no_grad():
        found = end_scores(reward.net, rows, torch.device("cpu"))
        alone = [reward.net(torch.tensor([row]))[0, -1].item() for row in rows]

    assert found.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.fixture
def rollout(work):
    """PPO on two answers of 3 and 2 tokens, scored 2 and -1, with a KL penalty of 0.5 per nat."""
    ppo = work(Ppo, steps=1, batch=2, minibatches=1, kl=0.5, gamma=1.0, lam=1.0)
    move(ppo.network)
    chat = ppo.start.chat
    rows = [[*chat.prompt(QUESTION), 50, 60, chat.end], [*chat.prompt(QUESTION), 70, 80]]
    batch = ppo._rollout(rows, [N_QUESTION] * 2, torch.tensor([2.0, -1.0]))
    gaps = [
        (logps_one_by_one(ppo.network, row) - logps_one_by_one(ppo.start.network, row))[N_QUESTION - 1 :]
        for row in rows
    ]
    return batch, gaps


def test_ppo_trains_the_answers_tokens_and_no_other(rollout):
    batch, _ = rollout

    before = [0] * (N_QUESTION - 1)
    assert batch.mask.tolist() == [[*before, 1, 1, 1], [*before, 1, 1, 0]]


def test_ppo_rewards_have_the_kl_at_every_token_and_the_score_at_the_last(rollout):
    """With gamma and lambda 1 and a critic of zeros a return is what still comes."""
    batch, gaps = rollout

    for row, (gap, score) in enumerate(zip(gaps, (2.0, -1.0), strict=True)):
        for i in range(len(gap)):
            wanted = score - 0.5 * gap[i:].sum().item()
            assert batch.returns[row, N_QUESTION - 1 + i] == pytest.approx(wanted, rel=1e-4)
    assert batch.returns[1, -1] == 0  # padding


def test_kl_is_summed_over_an_answer_and_averaged_over_answers(work, monkeypatch):
    ppo = work(Ppo, steps=1, batch=8, n_new=4, kl=0.1)
    move(ppo.network)
    kept = []
    monkeypatch.setattr(ppo, "_learn", lambda batch, k: kept.append(batch) or {})

    found = ppo.step(0)

    sums, k3 = [], []
    for row in kept[0].tokens.tolist():
        row = row[: row.index(ppo.start.chat.pad)] if ppo.start.chat.pad in row else row
        pair = [logps_one_by_one(net, row)[N_QUESTION - 1 :] for net in (ppo.network, ppo.start.network)]
        gap = pair[0] - pair[1]
        sums.append(gap.sum().item())
        k3.append(((-gap).exp() - 1 + gap).sum().item())
    assert found.numbers["kl"] == pytest.approx(np.mean(sums), rel=1e-4)
    assert found.numbers["kl_k3"] == pytest.approx(np.mean(k3), rel=1e-4)


def test_an_answer_that_was_cut_off_has_a_lower_score(work):
    ppo = work(Ppo, steps=1, batch=2, cut_off=0.75)

    scores = ppo._scores(ppo.prompts, [2.0, 3.0], None, [True, False])

    assert scores.tolist() == [2.0, 2.25]


# The best of n.


def test_the_best_of_two_is_the_mean_over_all_pairs():
    """Ranked by proxy the values are 1, 4, 3, 2; of six pairs the second, third and fourth win
    one, two and three.
    """
    proxy, value = np.array([[0.1, 0.4, 0.3, 0.2]]), np.array([[1.0, 2.0, 3.0, 4.0]])

    assert best_of(proxy, value, 1)[0] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert best_of(proxy, value, 2)[0] == pytest.approx((1 * 4 + 2 * 3 + 3 * 2) / 6)
    assert best_of(proxy, value, 4)[0] == pytest.approx(2)


def test_the_kl_of_the_best_of_n_is_ln_n_less_its_share(paths):
    """Ln 2 - 1/2 and ln 4 - 3/4, Gao et al. 2022."""
    stage = BestOf(name="b", start="sft", proxy="judge", n=(1, 2, 4), draws=4, prompts=2)
    choosing = stage.create_job(StageContext(stage, Yes(), 0, paths, None))
    choosing.scores = [[[float(i), 0.0], [1.0, float(i)]] for i in range(4)]

    rows = choosing.finish(None).tables["best_of"]

    assert [row["kl"] for row in rows] == pytest.approx([0, 0.193147, 0.636294], abs=1e-6)
