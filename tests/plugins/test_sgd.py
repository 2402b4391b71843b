"""SGD and the Step law that another package adds: contracts, and their way through the program."""

import json
from contextlib import closing

import observe
import pytest
import torch
from in_process import in_process

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.hardware.layout import Layout
from scalelab.jobs import EXECUTORS
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.launch.job_settings import FinalSettings
from scalelab.posttrain.networks import TrainableModel
from scalelab.posttrain.stage_cost import trained_bytes
from scalelab.posttrain.stages.sft import Sft
from scalelab.testing import optimizers, rules
from scalelab.train.memory import state_bytes
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunSpec

STEP_LAW = "{kind: step_law_rate, times: 2}"
SWEEP = observe.SWEEP.replace(
    "{lr: 3e-3, embedding_lr: 10, head_lr: 5}", f"{{kind: sgd, lr: {STEP_LAW}, momentum: 0.8}}"
).replace("[4e9, 1e10, 2.4e10]", "[4e9, 8e9]")


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

    trial = optimizers.OptimizerTrial(Sgd(lr=0.1, momentum=0.7, grad_clip=None))
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
    trainee = TrainableModel(network, optimizers.ROLES, stage.rates, n_steps=8, warmup=0.25)

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
    done = world("sweep", "journey.yaml", "--no-timing")
    assert done.returncode == 0, done.stderr
    return world


@pytest.mark.usefixtures("examples")
def test_a_dry_run_names_the_optimizer_and_its_rule(swept):
    shown = in_process(swept, "sweep", "journey.yaml", "--dry-run", "--no-timing", "--set", "name=other")

    assert shown.returncode == 0, shown.stderr
    assert "lr by step_law_rate" in shown.stdout


@pytest.mark.usefixtures("examples")
def test_every_run_learns_at_the_rate_of_the_law(swept):
    paths = list(swept.runs.glob("journey/*/result.json"))
    asked = json.loads((swept.runs / "journey" / "sweep.json").read_text())
    n_tokens = {run["run"]: run["n_tokens_planned"] for run in asked["runs"]}

    assert len(paths) == 6
    for path in paths:
        result = json.loads(path.read_text())
        spec = RunSpec.parse(parse_yaml((path.parent / "spec.yaml").read_text(), "spec"))
        expected = 2 * 1.79 * result["n_params_matmul"] ** -0.713
        expected *= n_tokens[path.parent.name] ** 0.307
        assert spec.optimizer.lr == pytest.approx(expected, rel=1e-9)
        assert result["status"] == "finished"
        assert result["loss"] < 4  # from ln 257 = 5.5


@pytest.mark.usefixtures("examples")
def test_a_plan_counts_its_memory_and_names_its_rate(swept, tmp_path):
    """With evidence from a known law: so small a sweep does not pin one down."""
    table = tmp_path / "sim.csv"
    made = in_process(swept, "simulate", str(table), "--budgets", "1e9:1e11:5", "--law", "chinchilla")
    assert made.returncode == 0, made.stderr
    fit = (str(table), "--law", "chinchilla", "--replicates", "50", "--budget", "2e11")
    done = in_process(swept, "plan", *fit, "--recipe", "journey.yaml", "--out", "plan")
    assert done.returncode == 0, done.stderr + done.stdout
    plan = json.loads((swept.path / "plan" / "plan.json").read_text())

    assert plan["run"]["optimizer"]["kind"] == "sgd"
    assert plan["memory"]["optimizer_bytes"] == 4 * plan["model"]["n_params_total"]
    assert "sgd: lr " in (swept.path / "plan" / "README.md").read_text()


def launched(run_dir, layout, tick=lambda executor: None):
    """The result of a run that was launched under a layout, by fresh processes."""
    config = LaunchConfig(checkpoint_s=0.05)
    settings = FinalSettings.of(layout, config).to_json()
    resources = JobResources(layout.devices, 1)
    job = Job(run_dir.run, run_dir, "final", resources=resources, settings=settings)

    class View(LiveView):
        def tick(self):
            super().tick()
            tick(executor)

    with closing(EXECUTORS["pool"]().start()) as executor, View(JobLabels()) as view:
        ended = drive(JobList([job]), executor, view, config.limits).ended[job.id]
    assert ended.outcome == "done", ended
    return run_dir.result()


@pytest.mark.usefixtures("examples")
def test_two_ranks_killed_on_the_way_end_where_one_process_does(tmp_path, tiny_spec):
    spec = tiny_spec(n_steps=60, optimizer={"kind": "sgd", "lr": 0.1})
    alone, two = (RunDir(tmp_path / name / spec.id) for name in ("alone", "two"))
    for run_dir in (alone, two):
        run_dir.create(spec)
    killed = []

    def kill_one(executor):
        if not killed and any(e["event"] == "checkpoint" for e in two.events()):
            killed.append(True)
            executor._processes[two.run][1].kill()

    theirs, ours = launched(alone, Layout()), launched(two, Layout(shard=2), kill_one)

    assert killed
    assert ours.n_resumes == 1
    assert ours.loss == pytest.approx(theirs.loss, rel=2e-4)
    assert [loss for *_, loss in ours.curve] == pytest.approx([loss for *_, loss in theirs.curve], rel=2e-4)
