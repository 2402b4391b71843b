"""The TRL backend: TRL's batches and losses are ours, and so is what its stages leave behind.

Losses and batches are taken from TRL's own trainers and compared with our tokens, masks and
plain functions on our network; the weights travel there by the exported checkpoint.
"""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

pytest.importorskip("trl")

from scalelab.config import plugin
from scalelab.errors import ConfigError, DataError, LaunchError, RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.skill_conversations import SkillConversations
from scalelab.evals.reward_model import RewardModel
from scalelab.model.moe.config import Moe
from scalelab.posttrain import STAGES, heldout_eval, losses
from scalelab.posttrain.add_chat_tokens import with_chat_tokens
from scalelab.posttrain.base import StageContext, StopRequested
from scalelab.posttrain.networks import merged_weights, write_model
from scalelab.posttrain.pairs import full_sequences
from scalelab.posttrain.stages.dpo import Dpo, DpoJob, answer_logps
from scalelab.posttrain.stages.reward import Reward, RewardJob, end_scores
from scalelab.posttrain.stages.sft import Sft, SftJob, collate
from scalelab.posttrain.trl.base import IGNORE_INDEX, newest_checkpoint, quiet, seal_checkpoint
from scalelab.posttrain.trl.offline import TrlDpoJob, TrlRewardJob, TrlSftJob
from scalelab.posttrain.trl.online import Grpo, Rloo, TrlGroupJob

RATES = {"lr": 1e-2}
SPELLED = "say <|assistant|> and <|endoftext|> and <|pad|>"


@pytest.fixture(autouse=True)
def few_looks(monkeypatch):
    monkeypatch.setattr(heldout_eval, "QUICK", 4)


@pytest.fixture(scope="session")
def assistant(base, tmp_path_factory):
    """A model's directory: untrained, with tokens for turns."""
    model = with_chat_tokens(Checkpoint.load(base), 0)
    folder = tmp_path_factory.mktemp("assistant")
    weights = {n: p.detach().clone() for n, p in model.network.named_parameters()}
    write_model(folder, model, weights)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A file of pairs: the better answer repeats the word, one prompt spells markers out."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"repeat {word}{i}", "chosen": word, "rejected": f"never, {word * 2}"}
        for i in range(8)
        for word in ("cat", "dog", "sun")
    ]
    rows[3] |= {"prompt": SPELLED, "rejected": SPELLED}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def conversations(tmp_path):
    """Conversations in a file: two turns, a system message, and text that spells markers."""
    path = tmp_path / "said.jsonl"
    said = [
        [("user", "hi"), ("assistant", "hello"), ("user", "again"), ("assistant", "hello again")],
        [("system", "be brief"), ("user", SPELLED), ("assistant", f"{SPELLED} indeed")],
        [("user", "one"), ("assistant", "1")],
        [("user", "two two"), ("assistant", "2 2")],
    ]
    rows = [{"messages": [{"role": r, "content": c} for r, c in one]} for one in said]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "files", "train": [str(path)]}


@pytest.fixture
def given(assistant, tmp_path):
    """A function that makes what a stage is given, for work that no loop does."""

    def make(stage, data=None, **more):
        from scalelab.evals import CONVERSATIONS

        source = TypeAdapter(plugin(CONVERSATIONS)).validate_python(data or {"kind": "skills"})
        (tmp_path / "stage").mkdir(exist_ok=True)
        return StageContext(stage, source, 0, {"base": assistant}, tmp_path / "stage", **more)

    return make


def batch_of(trainer):
    return next(iter(trainer.get_train_dataloader()))


def trl_loss(trainer, batch):
    """TRL's loss of a batch, without dropout and gradients."""
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(batch)))


def real_rows(batch):
    """Tokens of each row without the padding after them."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [tuple(r[:n].tolist()) for r, n in zip(batch["input_ids"], lengths, strict=True)]


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_mixtures_are_refused_by_name(base, given, tmp_path, kind):
    dense = Checkpoint.load(base)
    fields = dense.config.model_dump(exclude={"kind"})
    config = Moe(**fields, n_experts=4, top_k=2)
    network = config.network()
    network.reset(0)
    model = with_chat_tokens(replace(dense, config=config, network=network), 0)
    (tmp_path / "mixture").mkdir()
    write_model(tmp_path / "mixture", model, merged_weights(model.network))
    own = {"backend": "trl"} if kind == "sft" else {}
    stage = STAGES[kind](name="s", rates=RATES, start="base", **own)
    context = replace(given(stage), paths={"base": tmp_path / "mixture"})

    with pytest.raises(ConfigError, match="TRL cannot train this model: the architecture 'moe'") as refused:
        stage.create_job(context)
    assert "backend: own" in refused.value.fix


# Batches and losses.


@pytest.mark.parametrize("packing", [False, True])
def test_sft_batches_are_our_tokens_and_our_masks(given, conversations, packing):
    stage = Sft(name="s", rates=RATES, batch=4, packing=packing)
    work = TrlSftJob(stage, given(stage, conversations), SftJob)
    own, chat = work.own, work.start.chat

    batch = batch_of(work.trainer())

    rows = [own.rows[i] for i in own.order[0]]
    tokens, counts, _ = collate(rows, chat.pad, torch.device("cpu"))
    assert torch.equal(batch["input_ids"], tokens)
    assert torch.equal(batch["labels"], torch.where(counts > 0, tokens, IGNORE_INDEX))
    assert int((batch["labels"] == chat.end).sum()) == 5  # one for each answer
    assert int((batch["input_ids"] == chat.end).sum()) == 5
    assert len(rows) < 4 if packing else len(rows) == 4


@pytest.mark.parametrize("packing", [False, True])
def test_sft_loss_is_trls(given, conversations, packing):
    stage = Sft(name="s", rates=RATES, batch=4, packing=packing)
    work = TrlSftJob(stage, given(stage, conversations), SftJob)
    own, trainer = work.own, work.trainer()

    theirs = trl_loss(trainer, batch_of(trainer))

    rows = [own.rows[i] for i in own.order[0]]
    tokens, counts, segments = collate(rows, work.start.chat.pad, torch.device("cpu"))
    logits = own.network(tokens[:, :-1], segments_BT=segments)
    ours = losses.sft(losses.token_logps(logits, tokens[:, 1:]), counts[:, 1:])
    assert theirs == pytest.approx(float(ours.detach()), abs=1e-6)


def test_reward_batches_and_loss_are_trls(given, pairs):
    stage = Reward(name="r", start="base", pairs=pairs, rates=RATES, batch=24)
    work = TrlRewardJob(stage, given(stage), RewardJob)
    own, trainer = work.own, work.trainer()
    torch.manual_seed(0)
    score = torch.randn(own.net.score.shape)
    with torch.no_grad():
        own.net.score.copy_(score)
        trainer.model.score.weight.copy_(score[None])

    batch = batch_of(trainer)
    theirs = trl_loss(trainer, batch)

    mine = full_sequences([own.pairs.train[i] for i in own.order[0]])
    assert real_rows(batch) == mine
    chosen, rejected = end_scores(own.net, mine, own.start.device).chunk(2)
    assert theirs == pytest.approx(float(losses.reward(chosen, rejected).detach()), abs=1e-6)
    assert abs(theirs - np.log(2)) > 1e-3


@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
def test_dpo_batches_and_loss_are_trls(given, pairs, sft_weight):
    stage = Dpo(name="d", start="base", pairs=pairs, rates=RATES, batch=24, beta=0.7, sft_weight=sft_weight)
    work = TrlDpoJob(stage, given(stage), DpoJob)
    own, trainer = work.own, work.trainer()
    torch.manual_seed(0)
    with torch.no_grad():  # the policy leaves its reference, or the loss would be log 2
        own.network.norm.mul_(1.5)
        trainer.model.model.norm.weight.mul_(1.5)

    batch = batch_of(trainer)
    theirs = trl_loss(trainer, batch)

    mine = [own.pairs.train[i] for i in own.order[0]]
    answers = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORE_INDEX)
    assert real_rows(batch) == full_sequences(mine)
    assert [tuple(r[r != IGNORE_INDEX].tolist()) for r in answers] == [
        *(p.chosen for p in mine),
        *(p.rejected for p in mine),
    ]
    sums, n_chosen = answer_logps(own.network, mine, own.start)
    chosen, rejected = sums.chunk(2)
    reference = own.reference[own.order[0]].float()
    ours = losses.dpo(chosen, rejected, reference[:, 0], reference[:, 1], 0.7)
    ours = float((ours - sft_weight * chosen.sum() / n_chosen).detach())
    assert theirs == pytest.approx(ours, abs=1e-6 * max(1, abs(ours)))
    assert abs(ours - np.log(2)) > 1e-2


def test_text_that_spells_a_marker_stays_text(given, conversations):
    stage = Sft(name="s", rates=RATES, batch=4)
    work = TrlSftJob(stage, given(stage, conversations), SftJob)
    trainer, chat = work.trainer(), work.start.chat

    row = next(r for r in batch_of(trainer)["input_ids"] if "brief" in chat.tokenizer.decode(r))

    specials = {chat.tokenizer.special(n) for n in ("<|system|>", "<|user|>", "<|assistant|>")}
    assert sum(int(t) in specials for t in row) == 3
    assert int((row == chat.end).sum()) == 1
    # From the same words TRL's tokenizer reads markers: this is why it is given tokens.
    read = trainer.processing_class(SPELLED, add_special_tokens=False)["input_ids"]
    assert {chat.end, chat.pad} < set(read)


# Whole stages.


def told(planned, event):
    return [e for e in planned.dir.run_dir.events() if e["event"] == event]


def kinds(pairs, **more):
    """A stage of every offline kind."""
    start = {"start": "base", "pairs": pairs, "batch": 8, "min_steps": 8}
    return {
        "sft": {"kind": "sft", "examples": 16, "batch": 8, "min_steps": 8},
        "reward": {"kind": "reward", **start},
        "dpo": {"kind": "dpo", **start, "beta": 0.5},
    }


def weights_of(place, kind):
    if kind == "reward":
        return RewardModel.load(place).net.state_dict()
    return Checkpoint.load(place).network.state_dict()


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_both_backends_come_to_the_same(done, assistant, pairs, kind, capfd):
    stage = kinds(pairs)[kind] | {"rates": {"lr": 1e-3, "weight_decay": 0.1}}
    stages = ({**stage, "name": name, "backend": name} for name in ("own", "trl"))

    by = done(*stages, base=assistant)

    own, trl = (by[name].dir.result() for name in ("own", "trl"))
    losses_by = {n: [e["loss"] for e in told(by[n], "step") if "loss" in e] for n in by}
    assert losses_by["trl"] == pytest.approx(losses_by["own"], abs=1e-5)
    assert losses_by["trl"][-1] < losses_by["trl"][0]
    mine, its = (weights_of(by[n].dir.path, kind) for n in ("own", "trl"))
    assert mine.keys() == its.keys()
    for name, weight in mine.items():
        torch.testing.assert_close(its[name], weight, atol=2e-5, rtol=0)
    assert trl.n_tokens == own.n_tokens
    # We look on the way too, TRL's steps are looked at when all are made.
    worked = [r.flops - r.flops_by["looks"] for r in (trl, own)]
    assert worked[0] == pytest.approx(worked[1], rel=1e-12)
    assert 0 < trl.flops_by["looks"] < own.flops_by["looks"]
    assert trl.metrics.keys() == own.metrics.keys()
    assert trl.memory_bytes == own.memory_bytes
    assert {"trl", "transformers"} <= trl.versions.keys()
    assert {e["step"] for e in told(by["trl"], "eval")} == {2, 4, 6, 8}
    assert not (by["trl"].dir.path / "trl").exists()
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == 1
    if kind == "dpo":
        names = {"accuracy", "margin", "logp_chosen", "logp_rejected", "logp_chosen_change"}
        first = {n: told(by[n], "step")[1] for n in by}
        assert {k: first["trl"][k] for k in names} == pytest.approx(
            {k: first["own"][k] for k in names}, abs=1e-4
        )


def test_reward_scores_survive_the_way_back(given, pairs):
    stage = Reward(name="r", start="base", pairs=pairs, rates=RATES, batch=8)
    work = TrlRewardJob(stage, given(stage), RewardJob)
    trainer = work.trainer()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = batch_of(trainer)
    with torch.no_grad():
        theirs = trainer.model.eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits[:, 0]

    work.load_weights(trainer.model)
    RewardModel(work.own.net, work.start.chat, work.start.seq_len).write(work.context.out)

    rows = full_sequences([work.own.pairs.train[i] for i in work.own.order[0]])
    ours = RewardModel.load(work.context.out).score(rows)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert float(theirs.std()) > 0


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "rloo"])
def test_a_stopped_stage_goes_on_to_the_same_end(done, assistant, pairs, kind, tmp_path):
    online = {"kind": "rloo", "start": "base", "steps": 8, "batch": 4, "group": 2, "n_new": 6}
    stage = (kinds(pairs) | {"rloo": online})[kind] | {"name": "s", "rates": RATES}
    if kind != "rloo":
        stage["backend"] = "trl"
    asked = iter([False] * 3 + [True] + [False] * 100)

    whole = done(stage, base=assistant, root=tmp_path / "whole")["s"]
    broken = done(stage, base=assistant, root=tmp_path / "broken", stop=lambda: next(asked))["s"]
    assert broken.dir.result() is None
    steps_before = [e["step"] for e in told(broken, "step")]
    done(stage, base=assistant, root=tmp_path / "broken")

    assert steps_before == [1, 2, 3]
    one, two = whole.dir.result(), broken.dir.result()
    assert [e["step"] for e in told(broken, "step")] == list(range(1, 9))
    assert told(broken, "interrupted")
    assert told(broken, "resume")[-1]["step"] == 3
    assert two.n_resumes == 1
    assert (one.metrics, one.n_tokens, one.flops) == (two.metrics, two.n_tokens, two.flops)
    assert one.tables == two.tables
    mine, its = (weights_of(w.dir.path, kind) for w in (whole, broken))
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def saved(folder, step):
    """A directory like a checkpoint of TRL, sealed."""
    place = folder / f"checkpoint-{step}"
    place.mkdir()
    (place / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (place / "optimizer.pt").write_bytes(bytes(range(100)))
    seal_checkpoint(place, "s-1")
    return place


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "sealed.json").unlink(), "the save was not completed"),
        (lambda p: flipped(p / "optimizer.pt"), "optimizer.pt is not what was written"),
        (lambda p: flipped(p / "sealed.json"), "sealed.json cannot be read"),
        (lambda p: (p / "sealed.json").write_text("null"), "it holds null"),
        (lambda p: (p / "trainer_state.json").write_text(""), "trainer_state.json is not what"),
        (lambda p: (p / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda p: (p / "scaler.pt").write_text("x"), "scaler.pt is not part of it"),
        (lambda p: (p / "new").symlink_to(p / "optimizer.pt"), "it contains a symbolic link"),
        (lambda p: seal_checkpoint(p, "s-2"), "it belongs to stage s-2 at step 12"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage, reason):
    older, newer = saved(tmp_path, 5), saved(tmp_path, 12)
    (tmp_path / "checkpoint-20").mkdir()  # a killed save
    (tmp_path / "checkpoint-x").mkdir()
    assert newest_checkpoint(tmp_path, "s-1")[0] == newer

    damage(newer)

    place, passed_over = newest_checkpoint(tmp_path, "s-1")
    assert place == older
    assert passed_over[0].startswith("checkpoint-20: it has no seal")
    assert passed_over[1].startswith("checkpoint-12: ")
    assert reason in passed_over[1]


READ_BY_TRANSFORMERS = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


class Payload:
    """Unpickled where code may run, it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_code_in_a_checkpoint_is_run(given, tmp_path):
    stage = Sft(name="s", rates=RATES, examples=4, batch=2)
    asked, events, mark = iter([True]), [], tmp_path / "it ran"

    def work(**more):
        return TrlSftJob(stage, given(stage, **more), SftJob)

    with pytest.raises(StopRequested):
        work(stop=lambda: next(asked)).step(0)
    place = newest_checkpoint(tmp_path / "stage" / "trl", "stage")[0]
    pickles = [p for p in place.iterdir() if p.suffix in {".pt", ".pth", ".bin"}]
    assert {p.name for p in pickles} == READ_BY_TRANSFORMERS | {"training_args.bin"}
    torch.load(_pickled(tmp_path / "x.pt", Payload(tmp_path / "y")), weights_only=False)
    assert (tmp_path / "y").exists()  # what the payload does where code may run

    # Even where somebody has made a new seal over it.
    for path in pickles:
        before = path.read_bytes()
        _pickled(path, Payload(mark))
        seal_checkpoint(place, "stage")
        if path.name in READ_BY_TRANSFORMERS:
            with pytest.raises(RunError, match="transformers refuses to load") as no:
                work().step(0)
            assert len(str(no.value).splitlines()) == 3
            path.write_bytes(before)
    assert not mark.exists()

    for path in pickles:
        _pickled(path, Payload(mark))
    work(journal=lambda event, **values: events.append((event, values))).step(0)

    assert events[0][0] == "checkpoint_passed_over"
    assert "is not what was written" in events[0][1]["reason"]
    assert not mark.exists()


def _pickled(path, value):
    torch.save(value, path)
    return path


def test_a_stage_killed_behind_its_last_step_makes_none_again(given, assistant, pairs):
    stage = Dpo.model_validate(kinds(pairs)["dpo"] | {"name": "d", "rates": RATES})
    asked = iter([False] * 7 + [True])
    work = TrlDpoJob(stage, given(stage, stop=lambda: next(asked)), DpoJob)
    cost = work.step(0)  # asked to stop as it ends: it has saved, and is done

    after = TrlDpoJob(stage, given(stage, stop=lambda: pytest.fail("a step was made")), DpoJob)
    assert after.step(0) == cost

    assert newest_checkpoint(work.folder, "stage")[0].name == "checkpoint-8"
    mine, its = (w.own.network.parameters() for w in (work, after))
    assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))


def test_what_was_trained_is_not_lost_before_it_is_written(given):
    stage = Rloo(name="r", start="base", steps=2, batch=4, group=2, n_new=4, rates=RATES)
    work = TrlGroupJob(stage, given(stage))
    work.step(0)

    after = TrlGroupJob(stage, given(stage))
    after.restore(work.tensors())
    record = after.finish(after.context.out)

    assert record.tables["course"] == work.finish(work.context.out).tables["course"]
    assert all(
        torch.equal(a, b) for a, b in zip(work.network.parameters(), after.network.parameters(), strict=True)
    )


def test_a_stage_that_diverges_says_so(done, assistant, pairs):
    stage = kinds(pairs)["dpo"] | {"name": "s", "backend": "trl", "rates": {"lr": 1e30}}

    result = done(stage, base=assistant)["s"].dir.result()

    assert result.status == "diverged"
    assert "loss nan" in result.reason


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_low_rank_changes_are_put_into_the_weights(done, assistant, pairs, kind):
    pytest.importorskip("peft")
    stage = kinds(pairs)[kind] | {"name": "s", "backend": "trl", "rates": RATES, "lora": {"rank": 2}}

    one = done(stage, base=assistant)["s"]

    steps = [e["loss"] for e in told(one, "step") if "loss" in e]
    assert steps[-1] < steps[0]
    before, after = (weights_of(p, kind) for p in (assistant, one.dir.path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"blocks.0.{name}" for name in ("qkv", "out", "gate_up", "down")}


# RLOO and GRPO.


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_groups_learn_from_gold_and_record_the_way(done, assistant, kind, capfd):
    stage = {
        "kind": kind,
        "name": "s",
        "start": "base",
        "steps": 4,
        "batch": 8,
        "group": 4,
        "n_new": 8,
        "kl": 0.1,
        "rates": RATES,
    }

    one = done(stage, base=assistant)["s"]

    assert capfd.readouterr() == ("", "")
    result = one.dir.result()
    course = result.tables["course"]
    assert [row["step"] for row in course] == [1, 2, 3, 4]
    assert all(row["gold"] is not None and row["words"] is not None for row in course)
    assert all(row["proxy"] is None for row in course)
    assert course[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert course[-1]["kl"] > 1e-3
    steps = told(one, "step")
    assert {"loss", "gold", "kl", "entropy", "ended", "score"} <= steps[0].keys()
    write = result.n_tokens * Checkpoint.load(assistant).forward_flops
    passes = {"write": 1, "policy": 4 if kind == "rloo" else 3, "reference": 1, "reward": 0}
    looks = result.flops_by["looks"]
    assert looks > 0
    assert result.flops_by == {k: pytest.approx(n * write) for k, n in passes.items()} | {"looks": looks}
    assert result.flops == pytest.approx(sum(result.flops_by.values()))
    assert result.n_tokens == steps[3]["n_tokens"] > 4 * 8
    before, after = (weights_of(p, kind) for p in (assistant, one.dir.path))
    assert not torch.equal(before["embedding"], after["embedding"])


def test_the_reward_of_a_model_and_gold_stand_side_by_side(done, assistant, pairs):
    reward = kinds(pairs)["reward"] | {"name": "rm", "rates": RATES}
    stage = {
        "kind": "rloo",
        "name": "s",
        "start": "base",
        "reward": "rm",
        "steps": 2,
        "batch": 4,
        "group": 2,
        "n_new": 4,
        "kl": 0,
        "rates": RATES,
    }

    course = done(reward, stage, base=assistant)["s"].dir.result().tables["course"]

    assert all(row["proxy"] is not None and row["gold"] is not None for row in course)
    assert all(row["kl"] is None for row in course)  # nobody asked the reference


def test_kl_is_of_a_whole_answer_as_ppo_has_it(given):
    stage = Rloo(name="r", start="base", steps=2, batch=4, group=2, n_new=8, kl=0.5, rates=RATES)
    work = TrlGroupJob(stage, given(stage))
    trainer = work.trainer()
    trainer.model.train()
    with torch.no_grad():
        trainer.model.model.norm.weight.mul_(1.5)

    with quiet():
        batch = trainer._prepare_inputs(batch_of(trainer))
    logs = {k: v[0] for k, v in trainer._metrics["train"].items()}

    work.load_weights(trainer.model)
    kl, chat = [], work.start.chat
    for row in range(4):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0].tolist()
        answer = batch["completion_ids"][row][batch["completion_mask"][row] > 0].tolist()
        assert chat.tokenizer.decode(prompt).startswith("<|user|>")
        assert not set(answer) & set(chat.never_written)
        models = (work.heldout.as_checkpoint(work.network), work.start)
        now, before = (m.logprobs([prompt + answer])[0][len(prompt) - 1 :] for m in models)
        kl.append((now - before).sum())
    assert work._journal_numbers(logs)["kl"] == pytest.approx(np.mean(kl), rel=1e-4)


def test_markers_and_padding_are_never_written(given):
    stage = Rloo(name="r", start="base", steps=1, batch=8, group=4, n_new=8, rates=RATES)
    work = TrlGroupJob(stage, given(stage))
    trainer, never = work.trainer(), list(work.start.chat.never_written)
    with torch.no_grad():  # a model that would write little else
        trainer.model.lm_head.weight[never] = 50 * torch.randn(len(never), 16)

    with quiet():
        batch = trainer._prepare_inputs(batch_of(trainer))

    written = batch["completion_ids"][batch["completion_mask"] > 0]
    assert not set(written.tolist()) & set(never)


@pytest.mark.parametrize("kind", [Rloo, Grpo])
def test_what_is_asked_for_reaches_trl(given, kind):
    stage = kind(
        name="s", start="base", steps=3, batch=6, group=3, n_new=5, kl=0.2, temperature=0.7, rates=RATES
    )

    trainer = TrlGroupJob(stage, given(stage)).trainer()

    assert (trainer.beta, trainer.temperature, trainer.max_completion_length) == (0.2, 0.7, 5)
    batch = trainer.get_train_dataloader()
    assert [[row["place"] for row in rows] for rows in batch] == [
        [0, 0, 0, 1, 1, 1],
        [2, 2, 2, 3, 3, 3],
        [4, 4, 4, 5, 5, 5],
    ]


def test_scores_are_gold_less_what_being_cut_off_costs(given):
    stage = Grpo(name="g", start="base", steps=1, batch=2, group=2, cut_off=0.25, rates=RATES)
    work = TrlGroupJob(stage, given(stage))
    chat, prompt = work.start.chat, work.prompts[0]
    right = chat.answer(prompt.reference)
    noted = {}

    whole, cut = work.score(
        prompts=[work.rows[0]] * 2,
        completion_ids=[right, right[:-1]],
        place=[0, 0],
        log_metric=noted.__setitem__,
    )

    gold = SkillConversations().gold(prompt, prompt.reference)
    assert (whole, cut) == (pytest.approx(gold), pytest.approx(gold - 0.25))
    assert noted["gold"] == pytest.approx(gold)
    assert noted["ended"] == 0.5


def test_conversations_without_gold_are_refused(done, assistant, conversations):
    stage = {
        "kind": "grpo",
        "name": "s",
        "start": "base",
        "steps": 1,
        "batch": 4,
        "group": 2,
        "n_new": 4,
        "rates": RATES,
    }

    with pytest.raises(DataError, match=r"no gold score.*\n  where: stage s(.|\n)*set reward to the name"):
        done(stage, base=assistant, data=conversations)


def test_a_batch_is_made_of_whole_groups(done):
    stage = {"kind": "rloo", "name": "s", "start": "base", "batch": 6, "group": 4, "rates": RATES}

    with pytest.raises(ValueError, match="batch 6 is not a multiple of group 4"):
        done(stage)


# What is missing.


@pytest.mark.parametrize(
    ("package", "change"), [("trl", {}), ("transformers", {}), ("peft", {"lora": {"rank": 2}})]
)
def test_a_missing_package_is_named_with_what_to_install(given, monkeypatch, package, change):
    stage = Sft(name="s", rates=RATES, examples=4, backend="trl", **change)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(LaunchError) as error:
        stage.create_job(given(stage))

    problem, where, fix = str(error.value).splitlines()
    assert package in problem
    assert where == "  where: stage s, which uses TRL"
    assert "pip install -e '.[post]'" in fix


@pytest.mark.parametrize(
    ("kind", "method", "parts"),
    [
        # Each of write, reference and reward model looks once; TRL's RLOO looks with the policy
        # once more before it trains, which is three looks.
        ("rloo", ("RLOO", False), {"write": 1, "reference": 1, "reward": 1, "policy": 1 + 3}),
        ("grpo", ("GRPO", "group"), {"write": 1, "reference": 1, "reward": 1, "policy": 3}),
    ],
)
def test_a_file_that_names_a_method_gets_that_method_and_its_cost(kind, method, parts):
    written = {"kind": kind, "name": "s", "start": "base", "reward": "judge", "rates": RATES}

    stage = TypeAdapter(plugin(STAGES)).validate_python(written)

    name, settings = stage.trl()
    set_alone = settings.get("normalize_advantages", settings.get("scale_rewards"))
    assert (name, set_alone) == method
    assert stage.passes() == parts
