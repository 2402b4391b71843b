"""SGD and the Step law that another package adds: contracts, and their way through the program."""

import json
import shutil

import observe
import pytest
import torch

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.posttrain.account import trained_bytes
from scalelab.posttrain.networks import Trainee
from scalelab.posttrain.sft import Sft
from scalelab.testing import optimizers, rules
from scalelab.train.memory import state_bytes
from scalelab.train.spec import RunSpec

STEP_LAW = "{kind: step_law_rate, times: 100}"
SWEEP = observe.SWEEP.replace(
    "{lr: 3e-3, embedding_lr: 10, head_lr: 5}", f"{{kind: sgd, lr: {STEP_LAW}, momentum: 0.8}}"
)
PLAN = ("plan", "journey", "--budget", "6e10", "--law", "kaplan", "--replicates", "100")


@pytest.mark.usefixtures("examples")
def test_they_keep_the_contract():
    optimizers.check_optimizer("sgd", {"lr": 0.3, "weight_decay": 0.01})
    optimizers.check_optimizer("sgd", {"lr": 0.3, "momentum": 0.0, "grad_clip": None})
    rules.check_rule("step_law_rate", {})
    rules.check_rule_of_batch("step_law_batch", {})


@pytest.mark.usefixtures("examples")
def test_two_updates_are_those_of_torch():
    """Where gains and all else decay alike: not at all."""
    from scalelab_examples.sgd import Sgd

    trial = optimizers.Trial(Sgd(lr=0.1, momentum=0.7, grad_clip=None))
    other = optimizers.Small()
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.7)
    for k in range(3):
        trial.gradient(k)
        for name, parameter in trial.network.named_parameters():
            other.get_parameter(name).grad = parameter.grad.clone()
        trial.flat.step(1.0)
        theirs.step()

    for name, parameter in other.named_parameters():
        assert torch.allclose(trial.flat.weights()[name], parameter, rtol=1e-6, atol=1e-7), name


@pytest.mark.usefixtures("examples")
def test_it_takes_four_bytes_a_weight_less_than_two_moments_do(tiny_spec):
    spec = tiny_spec(optimizer={"kind": "sgd", "lr": 0.1})

    assert state_bytes(1000, "fp32", spec.optimizer) == 12_000
    assert state_bytes(1000, "bf16", spec.optimizer) == 16_000
    assert RunSpec.parse(parse_yaml(spec.to_yaml(), "spec")).id == spec.id != tiny_spec().id


@pytest.mark.usefixtures("examples")
def test_a_stage_of_post_training_learns_with_it():
    text = "kind: sft\nname: taught\nrates: {kind: sgd, lr: 0.3}\n"
    stage = Sft.parse(parse_yaml(text, "stage"))
    network = optimizers.Small()
    trainee = Trainee(network, optimizers.ROLES, stage.rates, n_steps=8, warmup=0.25)

    losses = []
    for k in range(8):
        loss = network(torch.arange(11))
        loss.backward()
        losses.append(float(loss.detach()))
        trainee.update(k)

    assert losses[-1] < losses[0]
    kept = {name for name in trainee.tensors("policy") if name.startswith("policy/sgd.")}
    assert kept == {f"policy/sgd.{i}.{name}" for i in (0, 1) for name in ("step", "velocity")}
    assert trained_bytes(network, stage.rates) == 12 * sum(p.numel() for p in network.parameters())


def test_without_the_package_a_spec_of_it_is_refused_by_name(tiny_spec):
    text = tiny_spec().to_yaml().replace("kind: adamw", "kind: sgd")

    with pytest.raises(ConfigError, match="optimizer: unknown optimizer 'sgd'"):
        RunSpec.parse(parse_yaml(text, "spec"))


@pytest.fixture(scope="module")
def swept(worlds):
    """A world in which the sweep was run once."""
    world = worlds("sgd", SWEEP)
    done = world("sweep", "journey.yaml")
    assert done.returncode == 0, done.stderr
    return world


@pytest.fixture(scope="module")
def planned(swept):
    """The same world with a plan from it."""
    done = swept(*PLAN, "--out", "plan")
    assert done.returncode == 0, done.stderr + done.stdout
    return swept


@pytest.fixture(scope="module")
def launched(planned):
    """The same world with the final run, trained in one process."""
    done = planned("launch", "plan")
    assert done.returncode == 0, done.stderr + done.stdout
    return planned


def final(world):
    (path,) = world.runs.glob("journey-*/*/result.json")
    return json.loads(path.read_text()), path.parent


def test_a_dry_run_names_the_optimizer_and_its_rule(swept):
    shown = swept("sweep", "journey.yaml", "--dry-run", "--set", "name=other")

    assert shown.returncode == 0, shown.stderr
    assert "lr by step_law_rate" in shown.stdout


def test_every_run_learns_at_the_rate_of_the_law(swept):
    paths = list(swept.runs.glob("journey/*/result.json"))
    asked = json.loads((swept.runs / "journey" / "sweep.json").read_text())
    n_tokens = {run["run"]: run["n_tokens_planned"] for run in asked["runs"]}

    assert len(paths) == 9
    for path in paths:
        result = json.loads(path.read_text())
        spec = RunSpec.parse(parse_yaml((path.parent / "spec.yaml").read_text(), "spec"))
        expected = 100 * 1.79 * result["n_params_matmul"] ** -0.713
        expected *= n_tokens[path.parent.name] ** 0.307
        assert spec.optimizer.lr == pytest.approx(expected, rel=1e-9)
        assert result["status"] == "finished"
        assert result["loss"] < 4  # from ln 257 = 5.5


def test_a_killed_sweep_ends_with_the_same_last_bit(swept, worlds, killed):
    world = worlds("killed", SWEEP)

    killed(world, "journey/*/log.jsonl", "sweep", "journey.yaml")

    assert observe.run_results(world.runs / "journey") == (
        observe.run_results(swept.runs / "journey")
    )


def test_a_plan_has_its_rate_and_its_memory(planned):
    plan = json.loads((planned.path / "plan" / "plan.json").read_text())
    n_params = plan["model"]["n_params_total"]

    assert plan["run"]["optimizer"]["kind"] == "sgd"
    assert plan["memory"]["optimizer_bytes"] == 4 * n_params
    assert "sgd: lr " in (planned.path / "plan" / "README.md").read_text()


def test_two_ranks_killed_on_the_way_end_where_one_process_does(launched, worlds, killed):
    world = worlds("ranks", SWEEP)
    shutil.copytree(launched.path / "plan", world.path / "plan")
    argv = ("launch", "plan", "--layout", "shard=2", "--set", "checkpoint_s=0.1")

    killed(world, "journey-*/*/checkpoints/sharded-*", *argv)

    (alone, at), (two, there) = final(launched), final(world)
    assert two["layout"]["shard"] == 2
    assert two["n_resumes"] >= 1
    assert two["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert [loss for *_, loss in two["curve"]] == pytest.approx(
        [loss for *_, loss in alone["curve"]], rel=1e-4
    )
    assert at.name == there.name
