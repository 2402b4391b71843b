"""A stage killed at any point resumes and ends with the same result.

Stopped after every step: test_conformance.py.
"""

import pytest

from scalelab.data.hashing import sha256
from scalelab.posttrain import loop
from scalelab.posttrain.base import StageDir
from scalelab.posttrain.worker import run_claimed_stage
from scalelab.sealed import seal_text, unseal_text
from scalelab.testing.stages import NAME
from scalelab.train.checkpoints import unsharded
from scalelab.train.run_directory import RunDir

PAIRS = {
    "kind": "preferences",
    "name": "pairs",
    "first": "sft",
    "judge": "gold",
    "prompts": 40,
    "batch": 8,
    "n_new": 12,
}
REWARD = {
    "kind": "reward",
    "name": "rm",
    "start": "sft",
    "pairs": "pairs",
    "batch": 8,
    "epochs": 2,
    "rates": {"lr": 1e-2},
}
DPO = {
    "kind": "dpo",
    "name": "dpo",
    "start": "sft",
    "pairs": "pairs",
    "batch": 8,
    "epochs": 2,
    "rates": {"lr": 1e-3},
}
PPO = {
    "kind": "ppo",
    "name": "ppo",
    "start": "sft",
    "reward": "rm",
    "steps": 6,
    "batch": 8,
    "n_new": 12,
    "rates": {"lr": 1e-3},
}
BEST = {
    "kind": "best_of",
    "name": "best",
    "start": "sft",
    "proxy": "rm",
    "prompts": 5,
    "draws": 4,
    "n": [1, 2, 4],
    "n_new": 12,
}
GRADE = {"kind": "grade", "name": "grade.sft", "model": "sft", "prompts": 4, "retention_tokens": 1024}


def stages(sft):
    return [sft(epochs=3), PAIRS, REWARD, DPO, PPO, BEST, GRADE]


def outputs(stage_dir):
    """Digests of all that a stage leaves, and its numbers that are not times."""
    result = stage_dir.result()
    timed = {"judge_seconds_per_thousand"}
    metrics = {k: v for k, v in result.metrics.items() if k not in timed}
    files = {
        path.name: sha256(path)
        for path in sorted(stage_dir.path.iterdir())
        if path.suffix in {".safetensors", ".jsonl"} and path.name != "log.jsonl"
    }
    return metrics, files, result.flops, result.n_tokens


@pytest.fixture(scope="module")
def undisturbed(done, sft, tmp_path_factory):
    return done(*stages(sft), root=tmp_path_factory.mktemp("x") / "undisturbed")


def beside(stage, root):
    """The same stage to be done once more under another root, from inputs done there."""
    there = StageDir(RunDir(root / NAME / stage.dir.path.name))
    there.path.mkdir(parents=True)
    text = unseal_text(stage.dir.run_dir.spec_path.read_text())
    text = text.replace(str(stage.dir.path.parent.parent), str(root))
    there.run_dir.spec_path.write_text(seal_text(text))
    return there


class Killed(BaseException):
    """What a kill looks like from inside: nothing more is done."""


def test_stages_that_die_in_the_middle_of_a_step_end_the_same(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(unsharded, "seconds_until_next", lambda last: -1.0)  # save at every step
    for name, stage in undisturbed.items():
        moved = beside(stage, tmp_path / "killed")
        save, saves = loop._StageLoop._save, []

        def dying(self, save=save, saves=saves):
            saves.append(1)
            wait = save(self)
            if len(saves) == 2:
                raise Killed
            return wait

        with monkeypatch.context() as patched:
            patched.setattr(loop._StageLoop, "_save", dying)
            with pytest.raises(Killed):
                run_claimed_stage(moved, lambda: False)
        run_claimed_stage(moved, lambda: False)
        assert outputs(moved) == outputs(stage.dir), name


def test_what_is_done_is_not_done_again(undisturbed, done, sft):
    before = {name: (stage.dir.run_dir.result_path.stat().st_mtime_ns) for name, stage in undisturbed.items()}

    done(*stages(sft), root=next(iter(undisturbed.values())).dir.path.parent.parent)

    for name, stage in undisturbed.items():
        assert stage.dir.run_dir.result_path.stat().st_mtime_ns == before[name]


def test_the_id_hashes_what_decides_and_nothing_else(base, tmp_path):
    from scalelab.posttrain.pipeline import PosttrainFile, plan_stages

    def ids(root="a", **changes):
        file = {
            "name": "t",
            "base": "b",
            "data": "skills",
            "grades": None,
            "stages": [{"kind": "sft", "name": "sft", "examples": 8, "rates": {"lr": 1e-3}}, PAIRS],
        } | changes
        planned = plan_stages(PosttrainFile.model_validate(file), base, tmp_path / root)
        return [p.spec.id for p in planned]

    assert ids() == ids(root="b") == ids(question="why?")
    assert ids()[0] != ids(seed=1)[0]
    assert ids()[0] != ids(data={"kind": "skills", "seed": 1})[0]
    longer = [{"kind": "sft", "name": "sft", "examples": 9, "rates": {"lr": 1e-3}}, PAIRS]
    assert ids()[1] != ids(stages=longer)[1]


def test_a_loss_that_is_no_number_ends_the_stage_as_diverged(done, sft, tmp_path):
    stage = done(sft(rates={"lr": 1e30, "grad_clip": None}, epochs=4))["sft"]

    result = stage.dir.result()
    assert result.status == "diverged"
    assert "loss nan at step" in result.reason or "loss inf" in result.reason
    assert not (stage.dir.path / "model.json").exists()
