"""`scalelab plan` through the real command line, on a sweep and on tables whose law is known."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest

from scalelab.cli.main import main
from scalelab.data.corpus import shards
from scalelab.launch.sweep_plan import place
from scalelab.launch.sweep_run import write_manifest
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.plan import Plan
from scalelab.study.simulate.designs import PerSeedNoise, SimulatedIsoFlop
from scalelab.study.simulate.simulation import simulate
from scalelab.sweep.file import SweepFile
from scalelab.train.spec import RunResult

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
QUICK = ("--replicates", "150")
SWEEP = """
name: fam
question: Which size?
prediction: The middle.
recipe:
  data:
    source: {kind: text, paths: ["TEXT/*.txt"]}
    tokenizer: {kind: bytes}
    validation: 0.2
    epochs: 2
  seq_len: 32
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}
  optimizer: {lr: 3e-3, embedding_lr: 10, head_lr: 5}
  batch: {coefficient: 0.9, exponent: 0.5, min_tokens: 256, max_tokens: 1024}
  min_steps: 20
  evaluation: {tokens: 4096, curve_points: 2, curve_tokens: 1024}
  precision: fp32
design:
  kind: isoflop
  budgets: [6e10, 1.5e11, 3.5e11, 8e11]
  sizes_per_budget: 5
  span: 5
  tokens_per_param: 20
"""
PACE = 2e10  # FLOPs per second of every fabricated run


def loss_of(n_params, n_tokens):
    """The law that the fabricated sweep obeys; its best D / N is near 20 at these sizes."""
    return 1.0 + 25 / n_params**0.35 + 86 / n_tokens**0.37


def came_to(spec, corpus, draw):
    """A result as the loop would have written it, its loss from loss_of."""
    size = spec.model.size(spec.seq_len)
    flops = size.flops_per_token * spec.n_tokens
    loss = loss_of(size.n_params_matmul, spec.n_tokens) * float(np.exp(0.001 * draw.normal()))
    half = [spec.n_steps // 2, spec.n_tokens // 2, loss + 0.2]
    return RunResult(
        run=spec.id,
        status="finished",
        reason=None,
        seed=spec.seed,
        n_params_total=size.n_params_total,
        n_params_non_embedding=size.n_params_non_embedding,
        n_params_matmul=size.n_params_matmul,
        n_params_active=size.n_params_active,
        flops_per_token=size.flops_per_token,
        flops=flops,
        flops_6nd=6.0 * size.n_params_total * spec.n_tokens,
        n_tokens=spec.n_tokens,
        n_tokens_planned=spec.n_tokens,
        n_tokens_unique=spec.n_tokens,
        n_steps=spec.n_steps,
        batch_tokens=spec.batch_tokens,
        micro_batch_tokens=spec.batch_tokens,
        seq_len=spec.seq_len,
        loss=loss,
        loss_se=0.01,
        bpb=None,
        curve=[half],
        train_curve=[half, [spec.n_steps, spec.n_tokens, loss]],
        tokens_per_s=PACE / size.flops_per_token,
        mfu=None,
        train_s=flops / PACE,
        eval_s=0.0,
        device="cpu",
        precision="fp32",
        threads=1,
        n_resumes=0,
        tokenizer=corpus.tokenizer,
        data_digest=corpus.digest,
        versions={},
        finished_ms=0,
    )


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory, cache):
    """A finished sweep that nobody trained, in a directory of its own; one run diverged."""
    del cache
    folder = tmp_path_factory.mktemp("fabricated")
    draw = np.random.default_rng(0)
    for k in range(20):
        words = draw.integers(10**6, size=18_000)
        (folder / f"{k}.txt").write_text(" ".join(map(str, words)))
    (folder / "fam.yaml").write_text(SWEEP.replace("TEXT", str(folder)))
    file = SweepFile.load(folder / "fam.yaml")
    corpus = shards.prepare(file.recipe.data)
    work = place(
        file.design.ask(file.recipe, vocab_size=corpus.vocab_size, data_digest=corpus.digest),
        folder / "runs",
        file.name,
    )
    write_manifest(file, work, folder / "runs")
    draw = np.random.default_rng(1)
    for k, one in enumerate(work):
        result = came_to(one.proposal.spec, corpus, draw)
        if k == 0:
            result = replace(result, status="diverged", reason="loss is nan", loss=None)
        one.run_dir.create(one.proposal.spec)
        one.run_dir.write_result(result)
    return folder


@pytest.fixture
def here(fabricated, tmp_path, monkeypatch):
    """A directory to plan in, among the fabricated runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(fabricated / "runs")
    return tmp_path


@pytest.fixture(scope="module")
def planned(fabricated):
    """The plan of that sweep for four times its largest budget: (its directory, what was said)."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as said:
        patch.chdir(fabricated)
        with redirect_stdout(said):
            assert main(["plan", "fam", "--budget", "3.2e12", *QUICK]) == 0
        return fabricated / "plans" / "fam-3.2e12", said.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """An external table of simulated runs, up to 1e20 FLOPs."""
    runs = simulate("chinchilla", TRUTH, SimulatedIsoFlop(), PerSeedNoise(0.002), seed=3)
    lines = ["n_params,n_tokens,loss,flops,flops_planned,status"]
    columns = (runs.N, runs.D, runs.L, runs.C, runs.flops_planned)
    rows = zip(*columns, strict=True)
    lines += [",".join(f"{v:.10g}" for v in row) + ",simulated" for row in rows]
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def refusal(capsys, *argv):
    assert main(["plan", *argv]) == 2
    said = capsys.readouterr().err
    assert said.count("\n  where: ") == said.count("\n  fix:   ") == 1
    return said


def test_a_sweep_becomes_a_plan_that_can_be_launched(planned):
    out, said = planned

    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "plan.json",
        "forecast.json",
        "regret.png",
        "regret.svg",
    }
    plan, frozen = Plan.load(out), FrozenForecast.load(out / "forecast.json")
    assert plan.forecast_digest == frozen.digest
    assert frozen.actual["flops"] == pytest.approx(3.2e12, rel=0.01)
    assert plan.spec.n_tokens == frozen.actual["n_tokens"]
    low, high = plan.intervals["loss"]
    assert low < loss_of(frozen.actual["n_params"], frozen.actual["n_tokens"]) < high
    assert frozen.stop_band is not None
    assert "Optimum (extrapolated 4x, averaged law)" in said
    assert said.rstrip().endswith("next: scalelab launch plans/fam-3.2e12")
    assert len(said.splitlines()) < 95
    assert max(map(len, said.splitlines())) <= 80


def test_the_sweep_and_its_failed_run_are_in_the_costs(planned):
    cost = Plan.load(planned[0]).cost

    spent, failed, final = cost["project"]["parts"]
    assert (spent["state"], failed["name"], final["state"]) == ("spent", "failed runs", "planned")
    assert spent["flops"] == pytest.approx(5 * (6e10 + 1.5e11 + 3.5e11 + 8e11), rel=0.03)
    assert failed["device_hours"] == pytest.approx(failed["flops"] / PACE / 3600)
    assert cost["project"]["flops"] == pytest.approx(spent["flops"] + failed["flops"] + final["flops"])
    assert cost["days"] == pytest.approx(3.2e12 / PACE / 86400, rel=0.02)
    assert cost["hours_are"] == "measured"
    assert cost["dollars"] is None  # nobody knows what this machine costs


def test_what_was_planned_stands_in_the_ledger(planned, fabricated, monkeypatch, capsys):
    monkeypatch.chdir(fabricated)

    assert main(["runs", "--forecasts"]) == 0

    digest = Plan.load(planned[0]).forecast_digest
    assert f"{digest[:12]} planned" in " ".join(capsys.readouterr().out.split())


def test_planned_again_the_forecast_is_the_first_one(planned, here, capsys):
    shutil.copytree(planned[0], here / "plans" / "fam-3.2e12")
    path = here / "plans" / "fam-3.2e12" / "forecast.json"
    first = path.read_bytes()

    assert main(["plan", "fam", "--budget", "3.2e12", *QUICK]) == 0
    assert path.read_bytes() == first
    assert Plan.load(path.parent).forecast_digest == FrozenForecast.load(path).digest
    del capsys


def test_a_forecast_altered_after_freezing_is_refused(planned, here, capsys):
    shutil.copytree(planned[0], here / "mine")
    path = here / "mine" / "forecast.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"loss": record["loss"] - 0.1}))

    said = refusal(capsys, "fam", "--budget", "3.2e12", "--out", "mine", *QUICK)
    assert "has been changed after it was frozen" in said


def test_data_too_short_is_not_frozen_and_its_fix_works(here, capsys):
    """The text may be read twice; a plan with repeats raises its forecast."""
    argv = ["fam", "--budget", "2e13", *QUICK]
    assert main(["plan", *argv]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "training tokens, the corpus has" in said
    assert Plan.load(here / "plans" / "fam-2e13").spec is None
    assert not (here / "plans" / "fam-2e13" / "forecast.json").exists()
    flag, unique = said.partition("Plan with repeats: ")[2].split(";")[0].split()

    asked = ["plan", *argv, flag, unique, "--out", "long"]
    assert main([*asked, "--override", "to see what repeats cost"]) == 0  # 25x, where 2.4x was tested
    plan, frozen = Plan.load(here / "long"), FrozenForecast.load(here / "long" / "forecast.json")
    assert plan.spec.n_tokens > 2 * float(unique)
    assert plan.spec.n_tokens <= plan.spec.data.epochs * float(unique)
    assert frozen.loss > plan.laws[0]["loss"]
    raised = re.search(r"epochs: the loss is raised by ([\d.]+)%", frozen.warnings[-1])
    assert float(raised[1]) > 0.2
    low, high = frozen.quoted
    assert low < frozen.loss < high


def test_given_tokens_are_kept(here, capsys):
    argv = ["plan", "fam", "--budget", "1.5e12", "--tokens", "3.5e6", "--out", "mine", *QUICK]
    assert main(argv) == 0

    plan = Plan.load(here / "mine")
    assert "(planned, tokens given)" in capsys.readouterr().out
    assert plan.spec.n_tokens == pytest.approx(3.5e6, rel=1e-3)


def test_no_more_params_than_fit_and_the_budget_is_spent(here, capsys):
    """The family's nearest member has 116,952, which are too many: the one below is built."""
    most = 1.15e5
    argv = ["plan", "fam", "--budget", "2e12", "--max-params", str(most), "--out", "mine", *QUICK]
    assert main(argv) == 0

    plan = Plan.load(here / "mine")
    assert "(planned, max params given)" in capsys.readouterr().out
    assert plan.model["actual"]["n_params"] == 98_000
    assert plan.model["flops"] == pytest.approx(2e12, rel=0.01)


def test_a_plan_is_never_launched_under_a_sweeps_name(here, capsys):
    said = refusal(capsys, "fam", "--budget", "3.2e12", "--out", "elsewhere/fam", *QUICK)

    assert "'fam' is already the name of a sweep" in said


def test_a_table_without_recipe_is_planned_and_not_launched(table, tmp_path, monkeypatch, capsys):
    """Limits that the optimum keeps leave it alone; use as large as training does not."""
    monkeypatch.chdir(tmp_path)
    asked = ["--demand", "1e12", "--max-params", "1e12"]
    assert main(["plan", table, "--budget", "1e21", *asked, "--json", "p.json", *QUICK]) == 0

    said = " ".join(capsys.readouterr().out.split())
    plan = json.loads((tmp_path / "p.json").read_text())
    assert "(simulated)" in said
    assert "next: scalelab launch" not in said
    assert (plan["schema"], plan["run"], plan["level"]) == (2, None, 0.8)
    wanted = {
        "target",
        "n_params",
        "n_tokens",
        "tokens_per_param",
        "loss",
        "intervals",
        "regret",
        "reach",
        "cost",
        "memory",
        "layout",
        "verdict",
    }
    assert wanted <= set(plan)
    assert set(plan["intervals"]) == {"n_params", "n_tokens", "tokens_per_param", "loss"}
    assert plan["regret"]["2"] == pytest.approx(0.158, abs=0.05)
    best = (TRUTH["alpha"] * TRUTH["A"] / TRUTH["beta"] / TRUTH["B"]) ** (1 / 0.72)
    low, high = plan["intervals"]["n_params"]
    assert low < best * (1e21 / 6) ** (0.37 / 0.72) < high
    parts = ("weights", "gradients", "optimizer", "working", "activations", "logits")
    assert plan["memory"]["total_bytes"] == sum(plan["memory"][f"{p}_bytes"] for p in parts)
    assert "is within the limit of 1T" in said
    assert plan["n_params"] == plan["laws"][0]["n_params"]
    served = plan["choices"]["demand, FLOPs"]
    assert served["n_params"] < 0.6 * plan["n_params"]
    assert served["tokens_per_param"] > 3 * plan["tokens_per_param"]
    assert "to plan this model --params" in said


def test_a_target_loss_is_the_forecast_at_its_compute(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(["plan", table, "--loss", "2.25", "--json", "p.json", *QUICK]) == 0

    plan = json.loads((tmp_path / "p.json").read_text())
    assert plan["target"]["loss"] == 2.25
    assert plan["loss"] == pytest.approx(2.25, abs=1e-9)
    truth = TRUTH["E"] + TRUTH["A"] / plan["n_params"] ** 0.35 + TRUTH["B"] / plan["n_tokens"] ** 0.37
    assert truth == pytest.approx(2.25, abs=0.02)


def test_ten_thousand_h100s_for_a_month_is_one_command(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--gpus", "10000", "--gpu", "h100", "--days", "30", "--mfu", "0.4"]
    assert main(["plan", table, *argv, "--override", "to see it", "--json", "p.json", *QUICK]) == 0

    plan = json.loads((tmp_path / "p.json").read_text())
    flops = 10_000 * 30 * 86400 * 9.89e14 * 0.4
    assert plan["target"]["flops"] == pytest.approx(flops)
    assert plan["cost"]["days"] == pytest.approx(30)
    assert plan["cost"]["gpu_hours"] == pytest.approx(7.2e6)
    assert plan["cost"]["kwh"] == pytest.approx(7.2e6 * 0.7 * 1.54)
    assert plan["cost"]["co2_kg"] is None  # no region was named
    axes = ("replicate", "shard", "tensor", "pipeline", "context")
    assert np.prod([plan["layout"][axis] for axis in axes]) == 10_000


def test_params_and_tokens_need_no_fit(tmp_path, monkeypatch, capsys):
    """Llama 3 405B, derived from published figures: 3.79e25 FLOPs, 68.6 days on 16,000 H100s."""
    monkeypatch.chdir(tmp_path)
    argv = "--params 405e9 --tokens 15.6e12 --gpus 16000 --gpu h100 --mfu 0.4044 --json p.json"
    assert main(["plan", *argv.split()]) == 0

    plan = json.loads((tmp_path / "p.json").read_text())
    said = " ".join(capsys.readouterr().out.split())
    assert plan["target"]["flops"] == pytest.approx(3.791e25, rel=1e-3)
    assert plan["cost"]["gpu_hours"] == pytest.approx(26.3e6, rel=5e-3)
    assert plan["cost"]["days"] == pytest.approx(68.6, rel=5e-3)
    assert plan["loss"] is None
    assert plan["memory"]["total_bytes"] <= 0.8 * 80e9
    assert "no loss is forecast" in said
    assert "article 51(2), in force" in said
    assert not (tmp_path / "plans").exists()
