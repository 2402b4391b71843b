"""A trunk and its branches: to the last bit what separate runs are, resumed anywhere, nothing trained twice."""

from dataclasses import asdict

import pytest
from pydantic import ValidationError

from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import prepare
from scalelab.errors import RunError
from scalelab.train import loop
from scalelab.train.checkpoints import unsharded
from scalelab.train.loop import train, train_trunk
from scalelab.train.run_directory import RunDir

SCHEDULE = {"kind": "wsd", "trunk": True, "warmup_steps": 6, "cooldown": 0.3, "shape": "sqrt"}
LENGTHS = (60, 100, 230)
LEAVES = [42, 70, 161]
SAME = ("status", "loss", "loss_se", "bpb", "curve", "train_curve", "files", "n_tokens", "flops", "n_steps")


@pytest.fixture
def family(tmp_path, tiny_run, tiny_spec):
    """A function that makes the directories of a trunk and its branches in a folder."""

    def make(where, lengths=LENGTHS, **changes):
        changes = {"schedule": SCHEDULE, **changes}
        branches = [tiny_run(tmp_path / where, n_steps=n, **changes) for n in lengths]
        spec = tiny_spec(n_steps=max(lengths), **changes)
        spec = spec.trunk(spec.branch_step)
        trunk = RunDir(tmp_path / where / spec.id)
        trunk.create(spec)
        return trunk, branches

    return make


@pytest.fixture
def steps(monkeypatch):
    """The steps that were trained, in order, each with the run's id."""
    trained = []
    gradient = loop._Run._gradient

    def counted(self):
        trained.append((self.dir.run, self.progress.step))
        return gradient(self)

    monkeypatch.setattr(loop._Run, "_gradient", counted)
    return trained


def after(n):
    left = [n]

    def stop():
        left[0] -= 1
        return left[0] <= 0

    return stop


def same(result):
    return {name: asdict(result)[name] for name in SAME}


def events(run_dir, kind):
    return [event for event in run_dir.events() if event["event"] == kind]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_branch_is_the_same_run_trained_by_itself_to_the_last_bit(family, steps, precision):
    """Also its curves before it left; and each step of the trunk is trained once."""
    _, alone = family("alone", precision=precision)
    separate = [train(run) for run in alone]
    steps.clear()
    trunk, branches = family("shared", precision=precision)
    assert train_trunk(trunk, branches)
    results = [train(run) for run in branches]

    assert [same(r) for r in results] == [same(r) for r in separate]
    assert [(r.trunk_run, r.n_tokens_trunk) for r in results] == [(trunk.run, 256 * s) for s in LEAVES]
    assert {r.trunk for r in results} == {run.spec().trunk_id for run in branches} != {trunk.run}
    assert [(r.trunk, r.trunk_run, r.n_tokens_trunk) for r in separate] == [(None, None, 0)] * 3
    assert len(set(steps)) == len(steps) == 161 + 18 + 30 + 69  # against 390
    assert [e["step"] for e in events(trunk, "branched")] == LEAVES
    assert not any(run.checkpoints.exists() for run in (trunk, *branches))


def test_branches_that_read_another_mixture_in_their_cooldown_share_a_trunk(family, tiny_text):
    """The trunk reads the mixture before it, and every branch is again the run trained by itself."""
    parts = [{"kind": "text", "paths": [f"{tiny_text}/*[{digits}].txt"]} for digits in ("02468", "13579")]
    source = {"kind": "mix", "names": ["some", "good"], "parts": parts}
    data = {"source": source, "tokenizer": "bytes", "validation": 0.2, "epochs": 50, "weights": {"some": 1.0}}
    digest = prepare(DataConfig.model_validate(data)).digest
    annealed = {"data": data | {"cooldown_weights": {"good": 1.0}}, "data_digest": digest}
    _, alone = family("alone", **annealed)
    _, plain = family("plain", data=data, data_digest=digest)
    trunk, branches = family("shared", **annealed)
    assert train_trunk(trunk, branches)

    results = [train(run) for run in branches]

    assert [same(r) for r in results] == [same(train(run)) for run in alone]
    assert all(r.trunk_run == trunk.run for r in results)
    assert trunk.run == plain[0].spec().trunk(161).id
    assert train(plain[0]).loss != results[0].loss


def test_a_mixture_for_a_cooldown_needs_one(tiny_spec):
    mixed = {"kind": "mix", "names": ["a", "b"], "parts": [{"kind": "pycode"}, {"kind": "pycode"}]}
    data = {"source": mixed, "weights": {"a": 1.0}, "cooldown_weights": {"b": 1.0}}

    for schedule in ({"kind": "cosine"}, {"kind": "wsd", "cooldown": 0.0}):
        with pytest.raises(ValidationError, match="cooldown_weights need a schedule with a cooldown"):
            tiny_spec(data=data, schedule=schedule)


def test_a_trunk_that_was_stopped_anywhere_resumes(family, steps):
    _, alone = family("alone")
    separate = [same(train(run)) for run in alone]
    steps.clear()
    trunk, branches = family("shared")
    for n in (1, 30, 12, 5, 60):  # also at step 42, where a branch leaves, and right after it
        assert not train_trunk(trunk, branches, after(n))
    assert not branches[2].checkpoints.exists()
    train_trunk(trunk, branches)

    assert [same(train(run)) for run in branches] == separate
    assert len(set(steps)) == len(steps)


def test_a_trunk_that_was_stopped_at_its_last_step_is_done_and_leaves_no_checkpoint(family):
    trunk, branches = family("shared", (60, 100))
    assert not train_trunk(trunk, branches, after(69))
    assert train_trunk(trunk, branches, after(1))
    assert not trunk.checkpoints.exists()

    (trunk.checkpoints / "step-00000070").mkdir(parents=True)
    assert train_trunk(trunk, branches)
    assert not trunk.checkpoints.exists()


def test_a_kill_between_the_trunks_checkpoint_and_its_branchs_leaves_nothing_to_repeat(
    family, steps, monkeypatch
):
    trunk, branches = family("shared")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Branches, "leave", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_trunk(trunk, branches)
    assert steps[-1] == (trunk.run, 41)
    train_trunk(trunk, branches)

    assert len(set(steps)) == len(steps) == 161
    assert [run.last_checkpoint for run in branches] == LEAVES


def test_a_branch_without_its_checkpoint_trains_by_itself(family):
    _, alone = family("alone")
    trunk, branches = family("shared")
    train_trunk(trunk, branches)
    (branches[0].checkpoints / "step-00000042" / unsharded.STATE).write_bytes(b"damaged")
    result = train(branches[0])

    assert same(result) == same(train(alone[0]))
    assert (result.trunk, result.trunk_run, result.n_tokens_trunk) == (None, None, 0)


def test_a_trunk_serves_only_who_needs_it(family, steps):
    """The longest has its result, and the shortest its checkpoint: only the middle one is trained for."""
    trunk, branches = family("shared")
    train(branches[2])
    train_trunk(trunk, branches, after(50))
    steps.clear()
    train_trunk(trunk, branches)

    assert [run.last_checkpoint for run in branches[:2]] == LEAVES[:2]
    assert [step for _, step in steps] == [*range(50, 70)]
    steps.clear()
    train_trunk(trunk, branches)
    assert not steps


def test_a_branch_that_came_later_is_served_from_the_beginning(family):
    """Its curve before the trunk's checkpoint is not known."""
    trunk, branches = family("shared", (60, 230))
    train_trunk(trunk, branches, after(50))
    _, more = family("shared", (100, 230))
    train_trunk(trunk, [*branches, more[0]])
    _, alone = family("alone", (100,))

    assert same(train(more[0])) == same(train(alone[0]))
    assert events(trunk, "checkpoint_passed_over")


def test_a_branch_that_another_process_has_taken_begins_no_trunk_again(family, steps):
    """Nor where that process has given it up, since it trains 42 steps by itself and the trunk would train 50."""
    trunk, branches = family("shared", (60, 100))
    with branches[0].claimed():
        assert not train_trunk(trunk, branches, after(50))
        assert not train_trunk(trunk, branches, after(5))
    train_trunk(trunk, branches)

    assert [step for _, step in steps] == [*range(70)]
    assert [run.last_checkpoint for run in branches] == [-1, 70]
    assert not events(trunk, "checkpoint_passed_over")


@pytest.mark.parametrize(
    ("step", "has_curves", "goes_on"),
    [
        (50, (False, True, True), True),  # 42 + 111 steps, against 161
        (30, (False, True, True), False),  # 42 + 131
        (50, (False, False, True), False),  # 42 + 70 + 111
        (50, (False, False, False), False),  # 42 + 70 + 161
        (100, (True, True, True), False),  # 42 + 70 + 61: it is past two
        (70, (True, True, True), True),  # 42 + 91
    ],
)
def test_a_trunk_begins_again_only_where_that_takes_fewer_steps(family, step, has_curves, goes_on):
    trunk, branches = family("shared")
    curves = {b.run: unsharded.BranchProgress() for b, has in zip(branches, has_curves, strict=True) if has}
    progress = unsharded.Progress(step=step, branches=curves)

    assert loop.Branches(trunk, branches).can_resume(progress) is goes_on


def test_a_trunk_that_diverges_says_so_and_its_branches_find_out_themselves(family):
    rates = dict.fromkeys(("lr_matrix", "lr_embedding", "lr_head", "lr_vector"), 1e6)
    trunk, branches = family("shared", optimizer=rates)

    assert train_trunk(trunk, branches)
    assert trunk.result().status == "diverged"
    assert train(branches[1]).status == "diverged"


def test_a_branch_past_its_trunk_is_refused_with_the_numbers(family):
    trunk, branches = family("shared", (60, 100))
    _, longer = family("shared", (230,))

    with pytest.raises(
        RunError, match=r"of 230 steps leaves its trunk after step 161, and the trunk .* ends at step 70"
    ):
        train_trunk(trunk, [*branches, *longer])


def test_a_run_of_another_trunk_is_refused(family):
    trunk, _ = family("shared")
    _, others = family("shared", seed=1)

    with pytest.raises(RunError, match="is not a branch of trunk"):
        train_trunk(trunk, others)


def test_a_branch_that_another_process_has_taken_is_left_to_it(family):
    trunk, branches = family("shared")
    with branches[0].claimed():
        train_trunk(trunk, branches)

    assert [run.last_checkpoint for run in branches] == [-1, *LEAVES[1:]]
