"""From a base model to graded assistants, through the real command line; killed on the way."""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import kills
import pytest
from in_process import in_process

from scalelab.cli.main import main
from scalelab.data.hashing import sha256
from scalelab.errors import RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.leases import holder
from scalelab.posttrain.pipeline import PosttrainFile, plan_stages
from scalelab.testing.stages import tiny_base
from scalelab.units import sci, si

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
"""A deprecation that MLflow's own use of its packages sets off; it runs in this process here."""
SWEEPS = Path(__file__).parents[2] / "sweeps"

UNGRADED = ("posttrain", "made.yaml", "--set", "grades=null")
FILE = kills.POSTTRAIN.replace("BASE", "base")


@pytest.fixture(scope="module")
def worlds_with_base(worlds, tiny_corpus):
    """A function that makes worlds with a base model and a post-training file."""
    made = []

    def make(name, mlflow=True):
        world = worlds(name, mlflow, ready=mlflow)
        (world.path / "made.yaml").write_text(FILE)
        if not made:
            made.append(tiny_base(world.path / "base", tiny_corpus.digest))
        else:
            shutil.copytree(made[0], world.path / "base")
        return world

    return make


def everything(world):
    """What was made, as far as it must not depend on what happened on the way."""
    found = {}
    for path in sorted((world.runs / "made").glob("*/result.json")):
        result = json.loads(path.read_text())
        metrics = {k: v for k, v in result["metrics"].items() if "seconds" not in k}
        weights = [sha256(p) for p in sorted(path.parent.glob("*.safetensors"))]
        found[path.parent.name] = (metrics, result["flops"], weights)
    return found


def mirrored(world):
    """How many rows MLflow has of each stage and metric, and how many different steps.

    Not the run of the whole pipeline: it has a row for each stage that ended, graded or not.
    """
    with sqlite3.connect(world.runs / "mlflow.db") as db:
        return db.execute(
            "select t.value, m.key, count(*), count(distinct m.step) "
            "from tags t join metrics m on m.run_uuid = t.run_uuid "
            "join runs r on r.run_uuid = t.run_uuid "
            "where t.key = 'scalelab.key' and r.lifecycle_stage = 'active' "
            "and t.value not like 'evaluation:%' and t.value not like 'posttrain:%' "
            "and m.key in ('loss', 'final.held_out.accuracy', 'gold', 'seconds') "
            "group by t.value, m.key order by 1, 2"
        ).fetchall()


@pytest.fixture(scope="module")
def made(worlds_with_base):
    world = worlds_with_base("made")
    done = world("posttrain", "made.yaml", "--json", "grades.json")
    assert done.returncode == 0, done.stderr + done.stdout
    world.said = done.stdout
    return world


def test_every_model_is_graded_and_the_page_is_there(made):
    grades = json.loads((made.path / "grades.json").read_text())

    assert [m["model"] for m in grades["models"]] == ["base", "sft-16", "sft", "dpo", "ppo"]
    for model in grades["models"]:
        assert list(model["sets"]) == ["same", "words", "longer", "wording", "same.sampled"]
        assert model["bpb"] > 0
    folder = made.path / "reports" / "made"
    page = (folder / "README.md").read_text()
    for name in ("models", "series", "overreach", "looks"):
        assert f"]({name}.png)" in page
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert (folder / f"{name}.svg").exists()
    assert "measured" in made.said
    assert "computed" in made.said
    assert (folder / "posttrain.json").read_text() == (made.path / "grades.json").read_text()


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("posttrain/*.yaml")), ids=lambda p: p.stem)
def test_every_post_training_we_ship_says_its_question_and_can_be_planned(path, made):
    file = PosttrainFile.load(path)

    assert file.name == path.stem
    assert file.question.strip().endswith("?")
    assert len(file.prediction) > 40
    assert len(plan_stages(file, made.path / "base", made.path / "nowhere")) > len(file.stages)


# The base has one layer of width 16, a gate of 32, 257 tokens and a context of 128; with the four
# markers of a conversation 261 tokens. Products, in all, FLOPs a token (as counted in
# tests/posttrain/test_costs_and_masks.py):
BASE_FLOPS = 6 * (4 * 16 * 16 + 3 * 16 * 32 + 257 * 16) + 12 * 16 * 128  # 64608
FLOPS = 6 * (4 * 16 * 16 + 3 * 16 * 32 + 261 * 16) + 12 * 16 * 128  # 64992
FORWARD = FLOPS // 3
N_PARAMS = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 261 * 16 + 3 * 16
N_SCALAR = N_PARAMS - 261 * 16 + 16


def test_the_plan_and_its_cost_come_first(made):
    """Rows of a full context, three looks to train, one for every model that only reads."""
    rows = [line.split() for line in made.said.splitlines() if " to do " in line]

    said = {row[0]: row[row.index("do") + 1] for row in rows}
    a_look = 128 * BASE_FLOPS / 3
    assert said == {
        "sft-16": sci(16 * 3 * 3 * a_look),  # three epochs
        "sft": sci(64 * 3 * 3 * a_look),
        "pairs": sci(60 * 2 * a_look),  # two answers to each prompt
        "judge": "not",  # known yet: how many pairs there will be
        "dpo": "not",
        "ppo": sci(8 * 16 * (5 + 2 * 2 * 3) * a_look),  # five look; two train twice
        "best": sci(6 * 4 * 2 * a_look),  # written and scored
    }
    assert made.said.index("FLOPs at most") < made.said.index("report: ")


def test_what_every_stage_cost_is_in_its_table(made):
    """FLOPs of a stage are those of its tokens, counted by hand, and of its looks on the way."""
    page = (made.path / "reports" / "made" / "README.md").read_text()
    table = page.partition("## Stages")[2].splitlines()
    results = {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
        for path in (made.runs / "made").glob("*/result.json")
    }

    passes = {"sft-16": 3, "sft": 3, "judge": 3, "pairs": 1, "best": 2, "ppo": 5 + 2 * 2 * 3, "dpo": 3}
    weights = {
        "sft-16": {"trained": 16 * N_PARAMS},
        "sft": {"trained": 16 * N_PARAMS},
        "judge": {"trained": 16 * N_SCALAR},
        "dpo": {"trained": 16 * N_PARAMS, "reference": 4 * N_PARAMS},
        "best": {"model": 4 * N_PARAMS, "reward": 4 * N_SCALAR},
        "ppo": {
            "policy": 16 * N_PARAMS,
            "critic": 16 * N_SCALAR,
            "reference": 4 * N_PARAMS,
            "reward": 4 * N_SCALAR,
        },
    }
    for name, looks in passes.items():
        result = results[name]
        beside = sum(result["flops_by"].get(part, 0) for part in ("looks", "judge"))
        if name == "dpo":
            beside += result["flops_by"]["reference"]
        assert result["flops"] - beside == result["n_tokens"] * looks * FORWARD, name
        held = result["memory_bytes"]
        assert weights.get(name, {}).items() <= held.items(), name
        cells = next(line for line in table if line.startswith(f"| {name} |"))
        _, _, _, status, tokens, flops, _, memory, _, _ = (c.strip() for c in cells.split("|"))
        assert (status, tokens) == ("finished", si(result["n_tokens"]))
        assert (flops, memory) == (sci(result["flops"]), f"{si(sum(held.values()))}B")


def test_the_same_command_again_does_nothing_again(made):
    before = everything(made)
    times = {p: p.stat().st_mtime_ns for p in made.runs.glob("made/*/result.json")}

    again = in_process(made, "posttrain", "made.yaml")

    assert again.returncode == 0, again.stderr
    assert "begun" not in again.stdout
    assert everything(made) == before
    assert {p: p.stat().st_mtime_ns for p in made.runs.glob("made/*/result.json")} == times


def test_it_is_listed_and_mirrored_once(made):
    listed = in_process(made, "runs", "made").stdout
    rows = mirrored(made)

    for stage in ("sft-16", "sft", "pairs", "judge", "dpo", "ppo", "best", "grade.ppo"):
        assert stage in listed
    losses = [row for row in rows if row[1] == "loss"]
    assert len(losses) == 5  # two of sft, judge, dpo, ppo
    assert all(n == steps for _, _, n, steps in rows)
    assert in_process(made, "sync").returncode == 0
    assert mirrored(made) == rows


def test_a_dry_run_does_nothing(worlds_with_base):
    world = worlds_with_base("dry", mlflow=False)

    dry = in_process(world, "posttrain", "made.yaml", "--dry-run")

    assert dry.returncode == 0, dry.stderr
    assert "to do" in dry.stdout
    assert not world.runs.exists()


def test_interrupted_and_killed_again_and_again_it_ends_the_same(made, worlds_with_base):
    """An interrupt asks to save; then the whole process group is killed."""
    world, draw = worlds_with_base("killed"), random.Random(7)
    for kind, number in (("sft", signal.SIGINT), ("ppo", signal.SIGKILL)):
        process = world.start(*UNGRADED)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if list(world.runs.glob(f"made/{kind}-*/log.jsonl")):
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
        if number == signal.SIGINT:
            process.send_signal(number)
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=120)
        if process.returncode == 130:
            assert "Run the same command to resume." in said
        _end_of_workers(world)

    done = world(*UNGRADED)

    assert done.returncode == 0, done.stderr + done.stdout
    stages = everything(world)
    assert stages == {name: it for name, it in everything(made).items() if name in stages}
    assert len(stages) == 7
    assert mirrored(world) == [row for row in mirrored(made) if row[0] in _ids(stages)]


def _ids(stages):
    return {name.rpartition("-")[2] for name in stages}


def _end_of_workers(world):
    """Wait until nobody holds the lease of a stage: workers end with their parent."""
    deadline = time.monotonic() + 30
    for stage in world.runs.glob("made/*-*/"):
        while holder(stage) is not None and time.monotonic() < deadline:
            time.sleep(0.05)


@pytest.fixture
def here(made, monkeypatch, capsys, tmp_path):
    """The command line in this process, in a directory with the file and its base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALELAB_CACHE", made.environ["SCALELAB_CACHE"])
    (tmp_path / "base").symlink_to(made.path / "base")
    (tmp_path / "made.yaml").write_text(FILE)

    def run(*argv):
        code = main(list(argv))
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("change", "problem", "where"),
    [
        ("base=nowhere", "there is no model 'nowhere'", "where: --set base=nowhere: base"),
        (
            "stages.0.kind=stf",
            "unknown stage 'stf'; did you mean 'sft'?",
            "made.yaml:8 with --set stages.0.kind=stf:",
        ),
        ("stages.2.pairs=peers", "stage 'judge' needs 'peers', which is not an earlier stage", ""),
        ("stages.1.judge=gald", "unknown judge 'gald'; did you mean 'gold'?", "stages.1"),
        ("stages.0.rates={}", "'lr' is missing", "stages.0.rates.lr"),
        ("stages.0.sizes=[64,16]", "sizes must be strictly increasing", "made.yaml:8"),
        ("data=hubb", "unknown source of conversations 'hubb'; did you mean 'hub'?", "--set"),
        ("grades.promts=3", "unknown key 'promts'; did you mean 'prompts'?", "--set"),
        ("stages.5.n=[1,8]", "n 8 exceeds the 4 draws per prompt", "stages.5"),
        ("stages.0.examples=3", "set examples or sizes, not both", "made.yaml:8"),
    ],
)
def test_a_mistake_in_the_file_is_answered_before_anything_is_done(here, tmp_path, change, problem, where):
    code, said = here("posttrain", "made.yaml", "--set", change)

    assert code == 2
    assert problem in said
    assert where in said
    assert "fix:" in said
    assert not (tmp_path / "runs").exists()


def test_a_stage_is_a_base_and_one_without_a_model_is_refused(here, made):
    paths = {p.name.rpartition("-")[0]: p for p in made.runs.glob("made/*-*") if p.is_dir()}

    assert here("posttrain", "made.yaml", "--dry-run", "--set", f"base={paths['dpo']}")[0] == 0
    code, said = here("posttrain", "made.yaml", "--dry-run", "--set", f"base={paths['pairs']}")

    assert code == 2
    assert "the base model has no weights" in said
    assert "fix:" in said


def test_another_tokenizer_than_the_model_s_is_refused(here, tmp_path, made):
    from scalelab.data.base import TokenizerConfig
    from scalelab.data.tokenizer import train

    (tmp_path / "base").unlink()
    shutil.copytree(made.path / "base", tmp_path / "base")
    config = TokenizerConfig(kind="bpe", vocab_size=257)
    train(config, iter(["other words"])).save(tmp_path / "base" / "tokenizer.json")

    with pytest.raises(RunError, match=r"tokenizer\.json is not what was written") as refused:
        Checkpoint.load(tmp_path / "base")

    assert "fix:" in str(refused.value)


def test_a_stage_that_is_refused_takes_only_what_needs_it(worlds_with_base):
    world = worlds_with_base("partly", mlflow=False)
    (world.path / "long.jsonl").write_text('{"prompt": "' + "x" * 300 + '", "completion": "a"}\n')
    (world.path / "p.jsonl").write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    (world.path / "made.yaml").write_text(
        "name: made\nbase: base\ngrades: null\n"
        "data: {kind: files, train: [long.jsonl]}\n"
        "stages:\n"
        "- {kind: sft, name: sft, rates: {lr: 1e-3}}\n"
        "- {kind: dpo, name: dpo, start: sft, pairs: p.jsonl, rates: {lr: 1e-3}}\n"
    )

    done = in_process(world, "posttrain", "made.yaml")

    assert done.returncode == 2, done.stderr
    assert "stage sft (refused): 1 of 1 conversations exceed the context" in done.stderr
    assert "  - dpo: it needs sft, which is not there" in done.stdout
    assert "Traceback" not in done.stderr
