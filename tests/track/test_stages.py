"""Post-trainings: their manifest, their listing, and their mirror on a real SQLite store."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from listing_text import listing

from scalelab.errors import RunError, TrackError
from scalelab.leases import claim
from scalelab.records.stage_manifest import (
    STAGE_RESULT,
    PlannedStage,
    StageManifest,
    list_posttrainings,
    stage_result,
    stage_state,
    stages_path,
)
from scalelab.tracking.report_mirror import log_evaluation
from scalelab.tracking.sync import Syncer, catch_up, sync
from scalelab.train.run_directory import RunDir

UNSEALED = Path(__file__).parents[1] / "fixtures" / "unsealed" / "sweeps" / "taught"
T0 = 1_700_000_000_000
KINDS = {"sft-2000": "sft", "pairs": "preferences", "dpo-beta": "dpo", "ppo": "ppo"}
TOTALS = {"flops": 3e12, "seconds": 75.5, "n_tokens": 40_000}


class Chain:
    """A post-training on the disk, made by hand."""

    def __init__(self, root, name="chat"):
        self.root, self.name = root, name
        stages = tuple(
            PlannedStage(stage, kind, f"{i:012x}", f"{name}/{stage}-{i:012x}")
            for i, (stage, kind) in enumerate(KINDS.items(), start=10)
        )
        self.manifest = StageManifest(
            name=name,
            digest="abc",
            question="Does it help? ",
            prediction="a little",
            config_yaml=f"name: {name}\n",
            base={"run": "fam/run00", "n_params": 100_000},
            created_ms=T0 - 1000,
            stages=stages,
        )
        self.manifest.write(root)
        for stage in KINDS:
            self.dir(stage).path.mkdir(parents=True)
            self.dir(stage).spec_path.write_text(f"kind: {KINDS[stage]}\nloss: {{beta: 0.1}}\n")

    def planned(self, stage):
        return next(planned for planned in self.manifest.stages if planned.stage == stage)

    def dir(self, stage):
        return RunDir(self.root / self.planned(stage).dir)

    def log(self, stage, event, t, **values):
        with open(self.dir(stage).log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"t": T0 + t, "event": event, **values}) + "\n")

    def train(self, stage, steps, t=0):
        """Journal some steps, each with an evaluation every tenth."""
        if not self.dir(stage).log_path.exists():
            self.log(stage, "start", t, attempt=0)
        for step in steps:
            self.log(
                stage,
                "step",
                t + step,
                step=step,
                loss=5 / (step + 1),
                n_tokens=100 * step,
                kl=0.1 * step,
                is_warm=True,
                phase="train",
                grad_norm=None,
            )
            if step % 10 == 0:
                self.log(stage, "eval", t + step, step=step, loss=6 / (step + 1), accuracy=0.5)

    def end(self, stage, status="finished", reason=None, t=1000, **changes):
        self.log(stage, "end", t, status=status, reason=reason)
        planned = self.planned(stage)
        record = {
            "schema": 1,
            "stage": stage,
            "kind": planned.kind,
            "id": planned.id,
            "status": status,
            "reason": reason,
            "metrics": {"loss": 1.25, "accuracy": 0.75, "win": None, "margin": 0.5, "kl": 9},
            **TOTALS,
            "flops_by": {"train": 3e12},
            "memory_bytes": {"weights": 4},
            "device": "cpu",
            "n_resumes": 0,
            "versions": {},
            "finished_ms": T0 + t,
        }
        self.dir(stage).result_path.write_text(json.dumps(record | changes))

    def expected(self):
        """Metric rows by stage id: {(metric, t, step, value)}, of each step the first."""
        rows = {}
        for planned in self.manifest.stages:
            run_dir, found = self.dir(planned.stage), {}
            text = run_dir.log_path.read_text() if run_dir.log_path.exists() else ""
            for event in map(json.loads, text.splitlines()):
                t, step = event["t"], event.get("step")
                names = {"step": ["loss", "step.n_tokens", "kl"]}
                names["eval"] = ["eval.loss", "eval.accuracy"]
                for name in names.get(event["event"], []):
                    value = event[name.split(".")[-1]]
                    found.setdefault((name, step), (name, t, step, float(value)))
            if run_dir.result_path.exists():
                result = json.loads(run_dir.result_path.read_text())
                end = max(step for _, step in found)
                values = {name: result[name] for name in TOTALS}
                values |= {f"final.{k}": v for k, v in result["metrics"].items()}
                for name, value in values.items():
                    if value is not None:
                        found[name, end] = (name, result["finished_ms"], end, float(value))
            if found:
                rows[planned.id] = set(found.values())
        return rows


def make_mixed(chain):
    """One stage that was resumed and finished, one that diverged, one interrupted, one planned."""
    chain.train("sft-2000", range(40))
    chain.log("sft-2000", "resume", 50, step=20)
    chain.train("sft-2000", range(20, 60), t=500)
    chain.end("sft-2000")
    chain.train("pairs", range(5))
    chain.end("pairs", "diverged", "the loss is not a number at step 5")
    chain.train("dpo-beta", range(12))
    chain.log("dpo-beta", "interrupted", 12, step=11)
    return chain


def words(text):
    """The text's lines, single-spaced."""
    return [" ".join(line.split()) for line in text.splitlines()]


def rows(db, name="chat"):
    return db.metrics(sweeps=(f"posttrain:{name}", "sweep:fam"))


def states(db):
    return {k: (status, tags.get("scalelab.state")) for k, (_, status, tags) in db.runs().items()}


@pytest.fixture
def mixed(root):
    return make_mixed(Chain(root))


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, empty_mlflow, family_in):
    """The same, mirrored once, for tests that only look: (chain, database, what sync said)."""
    root = tmp_path_factory.mktemp("mirrored")
    shutil.copy(empty_mlflow, root / "mlflow.db")
    chain = make_mixed(Chain(root))
    out = chain.dir("sft-2000").path
    for name in ("figure.png", "report.md", "pairs.jsonl", "model.safetensors", "model.json"):
        (out / name).write_text("x")
    (out / "tokenizer.json").write_bytes(b" " * 1_200_000)
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "state.json").write_text("{}")
    return chain, family_in(root)[1], sync(root, "chat")


def test_a_manifest_reads_back_equal_and_keeps_its_first_time(tmp_path):
    manifest = Chain(tmp_path).manifest
    later = replace(manifest, created_ms=9, digest="new", stages=manifest.stages[:1])

    assert StageManifest.load(tmp_path, "chat") == manifest
    later.write(tmp_path)

    assert StageManifest.load(tmp_path, "chat") == replace(later, created_ms=T0 - 1000)
    assert stages_path(tmp_path, "chat") == tmp_path / "chat" / "posttrain.json"
    assert list_posttrainings(tmp_path) == ["chat"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"stages": [{"stage": "a"}]}'])
def test_a_manifest_that_cannot_be_read_is_refused_and_mended_as_the_error_says(tmp_path, text):
    manifest = Chain(tmp_path).manifest
    stages_path(tmp_path, "chat").write_text(text)
    with pytest.raises(TrackError, match="cannot be read as a post-training manifest") as error:
        StageManifest.load(tmp_path, "chat")
    assert error.value.where == str(tmp_path / "chat" / "posttrain.json")
    assert error.value.fix.startswith("run `scalelab posttrain` on its file again")

    manifest.write(tmp_path)

    assert StageManifest.load(tmp_path, "chat") == manifest


def test_a_base_that_is_no_record_is_refused(tmp_path):
    path = stages_path(tmp_path, Chain(tmp_path).name)
    record = json.loads(path.read_text()) | {"base": "gpt", "schema": 1}
    del record["seal"]
    path.write_text(json.dumps(record))

    with pytest.raises(TrackError, match="base: Input should be an object"):
        StageManifest.load(tmp_path, "chat")


def test_two_stages_that_are_the_same_work_are_refused(tmp_path):
    manifest = Chain(tmp_path).manifest
    first = manifest.stages[0]
    twice = replace(manifest, stages=(first, replace(first, stage="again")))

    with pytest.raises(TrackError, match="'sft-2000' and 'again' are the same work") as error:
        twice.write(tmp_path)

    assert error.value.where == "chat: both have the id 00000000000a"


def test_an_unknown_name_is_answered_with_those_of_both_kinds(tmp_path, family_in):
    Chain(tmp_path)
    family_in(tmp_path)[0].plan(1)

    with pytest.raises(TrackError, match="there is no post-training 'fam'") as error:
        StageManifest.load(tmp_path, "fam")
    assert error.value.where == f"{tmp_path}, which holds: chat; sweeps: fam"
    assert error.value.fix.endswith("scalelab posttrain FILE.yaml")
    for ask in (sync, listing):
        with pytest.raises(TrackError, match="there is no sweep 'fan'") as error:
            ask(tmp_path, "fan")
        assert error.value.where == f"{tmp_path}, which holds: fam; post-trainings: chat"


def test_a_result_is_read_once_it_is_there(tmp_path):
    chain = Chain(tmp_path)
    path = chain.dir("sft-2000").path
    assert stage_result(path) is None

    chain.end("sft-2000")

    assert stage_result(path).metrics["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status": "done"}, "status: Input should be 'finished', 'diverged' or 'failed'"),
        ({"metrics": {"win": "high"}}, "metrics.win"),
        ({"metrics": {"win": True}}, "metrics.win"),
        ({"metrics": [1]}, "metrics: Input should be an object"),
        ({"flops": "3e12"}, "flops: Input should be a valid number"),
        ({"finished_ms": None}, "finished_ms: Input should be a valid integer"),
        ({"more": 1}, "it has an unknown 'more'"),
        ({"id": "00000000000b"}, "that of stage sft-2000-00000000000b, not of sft-2000-00000"),
    ],
)
def test_a_result_that_is_none_is_refused(tmp_path, changes, problem):
    chain = Chain(tmp_path)
    chain.end("sft-2000", **changes)

    with pytest.raises(RunError, match=r"result\.json") as error:
        stage_result(chain.dir("sft-2000").path)

    assert problem in error.value.problem
    assert error.value.where == str(chain.dir("sft-2000").result_path)
    assert len(str(error.value).splitlines()) == 3
    assert "starts again: its checkpoints were removed" in error.value.fix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", r"it holds \[\], not a record"),
        ('{"schema": 1, "stage": "a"}', "it has no device, finished_ms"),
        ('{"stage": "a"}', "it carries no seal"),
        ("{", "it is not JSON"),
        ("", "it is empty"),
        ("null", "it holds null, not a record"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, text, problem):
    chain = Chain(tmp_path)
    chain.dir("pairs").result_path.write_text(text)

    with pytest.raises(RunError, match=problem):
        stage_result(chain.dir("pairs").path)


def test_results_from_before_the_seals_are_read():
    paths = sorted(UNSEALED.glob("*/result.json"))

    results = [stage_result(path.parent) for path in paths]

    assert len(results) == 12
    for path, result in zip(paths, results, strict=True):
        record = json.loads(path.read_text())
        assert record.pop("schema") == 1
        assert {name: value for name, value in vars(result).items() if name != "files"} == record
        assert result.files == {}


def test_a_sealed_result_is_written_once_and_no_digit_of_it_can_be_changed(tmp_path):
    chain = Chain(tmp_path)
    chain.end("sft-2000")
    path = chain.dir("sft-2000").result_path
    result = stage_result(path.parent)
    path.unlink()

    assert STAGE_RESULT.write_once(path, result)
    assert not STAGE_RESULT.write_once(path, replace(result, device="another"))

    assert stage_result(path.parent) == result
    text = path.read_text()
    for old, new in ((": 1.25", ": 1.35"), ("75.5", "75.6"), ('"cpu"', '"gpu"'), ("2,", "1,")):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(RunError, match="seal"):
            stage_result(path.parent)


def test_every_state_is_read_from_the_directory(tmp_path):
    chain = make_mixed(Chain(tmp_path))
    paths = [chain.dir(stage).path for stage in KINDS]

    told = [stage_state(path) for path in paths]

    assert told == [
        ("finished", None),
        ("diverged", "the loss is not a number at step 5"),
        ("interrupted", None),
        ("planned", None),
    ]
    lease = claim(paths[2])
    assert stage_state(paths[2]) == ("running", None)
    lease.release()
    assert stage_state(paths[2]) == ("interrupted", None)
    chain.log("ppo", "lost", 99, reason="killed by signal 9")
    assert stage_state(paths[3]) == ("failed", "killed by signal 9")


def test_every_number_of_every_journal_is_there_once(mirrored):
    """Also of the stage that says some steps again after its resume."""
    chain, db, told = mirrored

    assert told == "chat: 3 stages brought up to date"
    assert rows(db) == chain.expected()


def test_stages_end_as_their_directories_say(mirrored):
    _, db, _ = mirrored

    assert states(db) == {
        "posttrain:chat": ("FAILED", "failed"),
        "00000000000a": ("FINISHED", "finished"),
        "00000000000b": ("FAILED", "diverged"),
        "00000000000c": ("KILLED", "interrupted"),
    }


def test_a_stage_hangs_below_its_parent_with_its_spec_and_its_words(mirrored):
    _, db, _ = mirrored

    runs = db.runs()
    tags = runs["00000000000b"][2]
    assert db.params("00000000000a") == {"kind": "sft", "loss.beta": "0.1"}
    assert tags["mlflow.parentRunId"] == runs["posttrain:chat"][0]
    assert tags["mlflow.runName"] == "pairs"
    assert tags["scalelab.kind"] == "preferences"
    assert tags["scalelab.reason"] == "the loss is not a number at step 5"
    assert tags["scalelab.dir"] == "chat/pairs-00000000000b"
    assert db.ask("select name from experiments where name != 'Default'") == [("chat",)]


def test_small_texts_and_figures_are_copied_and_weights_never(mirrored):
    chain, db, _ = mirrored

    run, _, tags = db.runs()["00000000000a"]
    kept = {p.name for p in (chain.root / "mlflow-artifacts" / "chat" / run).rglob("*.*")}
    assert kept == {"spec.yaml", "result.json", "figure.png", "report.md", "model.json"}
    assert tags["scalelab.not_copied"] == "tokenizer.json (1.2 MB)"


def test_the_parent_is_a_table_of_what_came_of_each_stage(mirrored):
    _, db, _ = mirrored

    note = db.runs()["posttrain:chat"][2]["mlflow.note.content"]
    assert note.startswith("**Does it help?**\n\nExpected: a little\n\nBase model: run fam/run00")
    finished = "| sft-2000 | sft | finished | 40k | 3e12 | 76 s | loss 1.25, accuracy 0.75, margin"
    assert finished in note
    assert "| dpo-beta | dpo | interrupted |  |  |  |  |" in note
    assert "| ppo | ppo | planned |" in note


def test_a_second_sync_and_a_lost_state_change_nothing(mixed, db):
    sync(mixed.root, "chat")
    before = rows(db), db.runs()

    assert sync(mixed.root, "chat") == "chat: up to date"
    assert (rows(db), db.runs()) == before
    (mixed.root / "chat" / ".sync-posttrain.json").unlink()

    assert sync(mixed.root, None) == "chat: 3 stages brought up to date"
    assert (rows(db), db.runs()) == before


def test_what_was_interrupted_or_lost_and_then_finished_says_no_more_of_it(root, db):
    chain = Chain(root)
    for stage in ("sft-2000", "pairs", "dpo-beta", "ppo"):
        chain.train(stage, range(12))
    chain.log("dpo-beta", "interrupted", 12, step=11)
    chain.log("ppo", "lost", 90, reason="killed by signal 9")
    sync(root, "chat")
    assert states(db)["00000000000c"] == ("KILLED", "interrupted")
    assert states(db)["00000000000d"] == ("FAILED", "failed")
    assert db.runs()["00000000000d"][2]["scalelab.reason"] == "killed by signal 9"

    for stage in ("sft-2000", "pairs", "dpo-beta", "ppo"):
        chain.log(stage, "resume", 95, step=8)
        chain.train(stage, range(8, 20), t=100)
        chain.end(stage)
    sync(root, "chat")

    assert set(states(db).values()) == {("FINISHED", "finished")}
    assert db.runs()["00000000000d"][2]["scalelab.reason"] == ""
    assert rows(db) == chain.expected()


def test_a_resume_met_in_two_parts_is_mirrored_once(mixed, db):
    log, result = mixed.dir("sft-2000").log_path, mixed.dir("sft-2000").result_path
    whole, end = log.read_bytes(), result.read_bytes()
    log.write_bytes(whole[: whole.index(b'"resume"')])
    result.unlink()
    sync(mixed.root, "chat")

    log.write_bytes(whole)
    result.write_bytes(end)
    sync(mixed.root, "chat")

    assert rows(db) == mixed.expected()


def test_runs_deleted_by_hand_come_back(mixed, db):
    from mlflow.tracking import MlflowClient

    sync(mixed.root, "chat")
    for key, (run, _, _) in db.runs().items():
        if key != "posttrain:chat":
            MlflowClient(f"sqlite:///{db.path}").delete_run(run)
    assert rows(db) == {}

    sync(mixed.root, "chat")

    assert rows(db) == mixed.expected()
    assert states(db)["posttrain:chat"] == ("FAILED", "failed")


def test_a_result_that_cannot_be_read_keeps_only_its_own_stage_out(mixed, db):
    mixed.dir("sft-2000").result_path.write_text("{")

    with pytest.raises(TrackError, match="1 stages could not be mirrored; all others") as error:
        sync(mixed.root, "chat")

    assert "stage sft-2000 is not mirrored: result.json cannot be read" in error.value.where
    assert set(rows(db)) == {"00000000000b", "00000000000c"}
    assert "| sft-2000 | sft | unreadable |" in str(db.runs()["posttrain:chat"][2])


def test_a_value_that_is_no_number_becomes_a_tag(mixed, db):
    mixed.log("ppo", "step", 1, step=0, kl=float("nan"))
    sync(mixed.root, "chat")

    assert db.runs()["00000000000d"][2]["scalelab.nonfinite.kl"] == "nan at step 0"


def test_a_stage_whose_lease_is_held_is_running_and_so_is_the_whole(mixed, db):
    lease = claim(mixed.dir("dpo-beta").path)
    sync(mixed.root, "chat")
    told = states(db)
    catch_up(mixed.root, "chat", 1.0, last=True)  # as the syncer of a sweep of this name ends
    lease.release()

    assert told["00000000000c"] == told["posttrain:chat"] == ("RUNNING", "running")
    assert states(db) == told


def test_a_syncer_follows_a_stage_that_grows_and_a_store_made_anew(root, db, family_in, empty_mlflow, until):
    """The name is a sweep's too: one process mirrors both."""
    chain, family = Chain(root, "fam"), family_in(root)[0]
    family.plan(1)
    family.train("run00", range(3))
    family.end("run00")
    handle = Syncer.start(root, "fam")
    chain.train("sft-2000", range(30))
    running = ("RUNNING", "running")
    until(lambda: states(db).get("00000000000a") == running, "the stage's first rows")

    copy = db.path.with_name("copy.db")
    shutil.copy(empty_mlflow, copy)
    copy.replace(db.path)
    chain.train("sft-2000", range(30, 60), t=100)
    chain.end("sft-2000")

    assert handle.finish() is None
    assert rows(db, "fam") == chain.expected() | family.expected()
    assert states(db)["posttrain:fam"] == ("KILLED", "interrupted")
    assert states(db)["sweep:fam"] == ("FINISHED", "finished")


def test_sync_without_a_name_covers_both_kinds(mixed, db, family):
    both = Chain(mixed.root, "fam")
    family.plan(1)
    family.train("run00", range(3))
    both.train("ppo", range(3))

    assert sync(mixed.root, None).splitlines() == [
        "chat: 3 stages brought up to date",
        "fam (sweep): 1 run brought up to date",
        "fam (post-training): 1 stage brought up to date",
    ]
    of = "select count(*) from runs join experiments using (experiment_id) where experiments.name=?"
    assert (db.ask(of, "chat"), db.ask(of, "fam")) == ([(4,)], [(4,)])


def test_an_evaluation_is_one_run_however_often_it_is_told(mixed, db, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.md").write_text("# fair")
    (out / "answers.jsonl").write_text("{}")
    values = {"sft.accuracy": 0.5, "sft.win": None}

    first = log_evaluation(mixed.root, "chat", out, "0123456789ab", values, "better by half")

    assert log_evaluation(mixed.root, "chat", out, "0123456789ab", values, "again") == first
    assert db.ask("select key, value from metrics") == [("sft.accuracy", 0.5)]
    run, status, tags = db.runs()["evaluation:0123456789ab"]
    assert (run, status, tags["scalelab.kind"]) == (first, "FINISHED", "evaluation")
    assert tags["mlflow.note.content"] == "again"
    assert {p.name for p in (mixed.root / "mlflow-artifacts").rglob("*.*")} == {"report.md"}
    sync(mixed.root, "chat")
    assert "evaluation:0123456789ab" in db.runs()


def test_the_listing_says_how_every_stage_stands(tmp_path):
    chain = make_mixed(Chain(tmp_path))
    chain.dir("ppo").result_path.write_text("{}")

    lines = words(listing(tmp_path, "chat"))

    assert lines == [
        "Post-training chat",
        "Does it help?",
        "",
        "base model run fam/run00, n_params 100000",
        "",
        "1 finished, 1 diverged, 1 interrupted, 1 unreadable",
        "",
        "stage kind state tokens FLOPs time id",
        "sft-2000 sft finished 40k 3e12 76 s 00000000000a",
        "pairs preferences diverged 40k 3e12 76 s 00000000000b",
        "dpo-beta dpo interrupted 00000000000c",
        "ppo ppo unreadable 00000000000d",
        "FLOPs are computed. Directory of a stage: chat/STAGE-ID.",
        "",
        "- sft-2000: loss 1.25, accuracy 0.75, margin 0.5",
        "- pairs: the loss is not a number at step 5",
        "- dpo-beta: step 11",
        "- ppo: result.json cannot be read as a stage result: it carries no seal",
    ]


def test_the_listing_of_all_shows_post_trainings_beside_sweeps(tmp_path, family_in):
    make_mixed(Chain(tmp_path))
    assert listing(tmp_path, None).splitlines()[-1] == "Show every stage of one: scalelab runs NAME"
    family_in(tmp_path)[0].plan(2)

    assert words(listing(tmp_path, None)) == [
        "sweep runs planned",
        "fam 2 2",
        "",
        "post-training stages finished diverged interrupted planned",
        "chat 4 1 1 1 1",
        "",
        "Show every run or stage of one: scalelab runs NAME",
    ]


def test_a_name_of_both_kinds_is_listed_as_both(tmp_path, family_in):
    Chain(tmp_path, "fam")
    family_in(tmp_path)[0].plan(1)

    text = listing(tmp_path, "fam")

    assert text.startswith("Sweep fam\nWhat is best?\n")
    assert "\n\nPost-training fam\nDoes it help?\n\n  base model" in text
