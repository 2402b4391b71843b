"""What is submitted to Slurm and read from it, on commands that answer as a test says. No daemon is needed."""

import stat
import subprocess
import sys
from contextlib import suppress

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError, LaunchError
from scalelab.jobs.base import JobOutcome
from scalelab.jobs.executors import slurm_commands as slurm
from scalelab.jobs.executors.slurm import SlurmConfig
from scalelab.jobs.executors.slurm_commands import SlurmTask
from scalelab.jobs.executors.slurm_scripts import gang_job, worker_job
from scalelab.jobs.queue_records import JobEnd
from scalelab.jobs.settings import LaunchConfig
from scalelab.testing.executors import job

SETTINGS = {"gpus": 0, "cpus": 2, "slots": 1, "workers": 3, "poll_s": 1e-9}


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """A function that sets what one of Slurm's commands prints, and its exit status; calls are in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"

    def answer(name, output="", status=0, error=""):
        (folder / f"{name}.out").write_text(output)
        (folder / f"{name}.err").write_text(error)
        path = folder / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {calls}\ncat > /dev/null\n'
            f"cat {folder}/{name}.out\ncat {folder}/{name}.err >&2\nexit {status}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    for name, output in {
        "sbatch": "7\n",
        "squeue": "",
        "scancel": "",
        "scontrol": "",
        "sinfo": "main*\nhigh\n",
    }.items():
        answer(name, output)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    answer.calls = lambda: calls.read_text().splitlines() if calls.exists() else []
    return answer


def start(tmp_path, **changes):
    return SlurmConfig(**SETTINGS | changes).start((), tmp_path / "runs" / "sweep")


def queued(tmp_path, n=1, **changes):
    executor = start(tmp_path, **changes)
    jobs = [job(executor.queue.home, f"job{i}") for i in range(n)]
    for each in jobs:
        executor.submit(each)
    return executor, jobs


def test_without_sbatch_a_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="sbatch is not here") as error:
        start(tmp_path)
    assert "login node" in error.value.fix


def test_an_unknown_partition_is_refused_with_those_that_there_are(tmp_path, answers):
    with pytest.raises(LaunchError, match="no partition 'gpu'; Slurm has: high, main"):
        start(tmp_path, partition="gpu")
    start(tmp_path, partition="high,main")


def test_a_rejected_job_is_refused_in_the_words_of_slurm(tmp_path, answers):
    words = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"
    answers("sbatch", status=1, error=words)
    executor, _ = queued(tmp_path)
    (ended,) = executor.poll().values()
    assert ended.outcome == "refused"
    assert "Invalid account or account/partition combination specified" in ended.reason
    assert "account" in ended.fix
    assert executor.poll() == {}


def test_a_controller_that_is_away_is_asked_again_later(tmp_path, answers):
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    answers("squeue", status=1, error=away)
    executor, _ = queued(tmp_path)
    assert executor.poll() == {"job0": "unknown"}
    assert not any(call.startswith("sbatch") for call in answers.calls())
    answers("squeue")
    answers("sbatch", status=1, error="sbatch: error: Batch job submission failed: Socket timed out\n")
    assert executor.poll() == {"job0": "queued"}
    answers("sbatch", "12;cluster\n")
    assert executor.poll() == {"job0": "queued"}
    assert [c for c in answers.calls() if c.startswith("sbatch")][-1].endswith("--array=0-0")


@pytest.mark.parametrize(("n", "sizes"), [(1, ["0-0"]), (2, ["0-1"]), (200, ["0-2"])])
def test_workers_are_bounded_and_one_squeue_asks_for_all(tmp_path, answers, n, sizes):
    executor, jobs = queued(tmp_path, n)
    executor.poll()
    name = executor._name
    tasks = [f"7_{i}|PENDING|{name}|Resources" for i in range(len(jobs))][:3]
    answers("squeue", "\n".join(tasks) + "\n")
    for _ in range(3):
        executor.poll()
    calls = answers.calls()
    assert [c.rpartition("--array=")[2] for c in calls if c.startswith("sbatch")] == sizes
    assert sum(c.startswith("squeue") for c in calls) == 4


def test_an_array_that_the_controller_forgot_is_submitted_again(tmp_path, answers):
    executor, _ = queued(tmp_path, poll_s=1e-9)
    for _ in range(3):
        executor.poll()
    assert sum(c.startswith("sbatch") for c in answers.calls()) > 1


def test_ends_are_read_from_the_disk_even_where_slurm_is_away(tmp_path, answers):
    answers("squeue", status=1, error="Unable to contact slurm controller\n")
    executor, _ = queued(tmp_path)
    executor.queue.record_end("job0", 1, JobEnd("out_of_memory", "too large", worker="w"))
    (ended,) = executor.poll().values()
    assert (ended.outcome, ended.reason) == ("out_of_memory", "too large")


def test_workers_that_never_reach_the_directory_end_the_jobs(tmp_path, answers):
    answers("scontrol", "JobId=7 ExitCode=0:53 NodeList=node9 JobState=FAILED\n")
    executor, _ = queued(tmp_path)
    name = executor._name
    states = {}
    for i in range(4):
        answers("sbatch", f"{7 + i}\n")
        states = executor.poll()
        answers("squeue", f"{7 + i}_0|FAILED|{name}|RaisedSignal:53\n")
    ended = states["job0"]
    assert isinstance(ended, JobOutcome)
    assert ended.outcome == "refused"
    assert "3 workers in a row" in ended.reason
    assert "0:53" in ended.reason
    assert "node9 may not see this one" in ended.fix


def test_workers_of_an_earlier_command_that_ended_are_no_reason_to_refuse(tmp_path, answers):
    executor, _ = queued(tmp_path)
    answers("squeue", "".join(f"7_{i}|FAILED|{executor._name}|NonZeroExitCode\n" for i in range(4)))
    answers("sbatch", "8\n")
    assert [executor.poll() for _ in range(2)] == [{"job0": "queued"}] * 2


def test_jobs_that_end_without_a_word_on_a_full_disk_are_refused_with_that_reason(small_disk, answers):
    executor, _ = queued(small_disk)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    executor.poll()
    with suppress(OSError), open(small_disk / "ballast", "wb", 0) as file:
        while True:
            file.write(bytes(4096))
    answers("squeue", f"7_0|FAILED|{executor._name}|NonZeroExitCode\n")
    ended = {}
    while len(ended) < 2:
        ended |= {name: state for name, state in executor.poll().items() if isinstance(state, JobOutcome)}
    for each in ended.values():
        assert (each.outcome, "No space left on device" in each.reason) == ("refused", True)
        assert "free some space" in each.fix
        assert str(small_disk) in each.where


def test_a_job_submitted_by_a_dead_driver_is_found(tmp_path, answers):
    executor, jobs = queued(tmp_path, 2)
    executor.queue.record_end("job1", 1, JobEnd("killed", "gone"))
    again = start(tmp_path)
    assert again.find(jobs) == ("job0",)
    assert again._name == executor._name
    assert again.poll() == {"job0": "queued"}


def test_a_job_that_no_worker_has_is_withdrawn_at_once(tmp_path, answers):
    executor, _ = queued(tmp_path, 2)
    executor.cancel(["job0"], now=False)
    executor.cancel(["job1"], now=True)
    states = executor.poll()
    assert [states[f"job{i}"].outcome for i in range(2)] == ["interrupted", "killed"]
    assert executor.queue.ticket("job0").wanted == "stop"


@pytest.mark.parametrize("stopped", [True, False])
def test_idle_workers_are_cancelled_at_the_end_and_others_stay(tmp_path, answers, stopped):
    executor, _ = queued(tmp_path)
    answers("squeue", f"7_0|PENDING|{executor._name}|Resources\n")
    executor.poll()
    if stopped:
        executor.cancel(["job0"], now=False)
    else:
        executor._queued._jobs.clear()  # as after a crash of the driver's own
    executor.poll()
    executor.close()
    assert any(call == "scancel 7" for call in answers.calls()) == stopped


def test_what_slurm_requeued_is_replaced_at_once(tmp_path, answers):
    executor, _ = queued(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    late = f"7_0|PENDING|{executor._name}|BeginTime\n8|PENDING|{executor._gangs.name_of('gang')}|BeginTime\n"
    answers("squeue", late)
    assert executor.poll() == {"job0": "queued", "gang": "queued"}
    calls = answers.calls()
    assert [c for c in calls if c.startswith("scancel")] == ["scancel 8", "scancel 7_0"]
    assert sum(c.startswith("sbatch") for c in calls) == 3, "the gang twice, a worker"


def test_settings_reach_sbatch_and_the_script(tmp_path):
    settings = SlurmConfig(
        partition="high",
        account="lab",
        qos="long",
        memory="32G",
        gpus=2,
        cpus=6,
        slots=4,
        modules=["cuda/12.8"],
        setup=["source env/bin/activate"],
        container="apptainer exec --nv my.sif",
        flags=["--constraint=h100"],
        python="python3",
    )
    home = tmp_path / "50% of 'it'" / "sweep"
    made = worker_job(settings, home, "abc", "name")
    assert {"--partition=high", "--account=lab", "--qos=long", "--mem=32G", "--gres=gpu:2"} <= {*made.options}
    assert {"--cpus-per-task=6", "--time=240", "--constraint=h100", "--requeue"} <= {*made.options}
    assert any(
        o.startswith("--output=") and "50%% of" in o and o.endswith("worker-%A_%a.log") for o in made.options
    )
    lines = made.script.splitlines()
    assert lines[1:3] == ["module load cuda/12.8", "source env/bin/activate"]
    assert lines[-1].startswith("exec apptainer exec --nv my.sif python3 -m scalelab worker")
    assert "--slots 4" in lines[-1]


@pytest.mark.parametrize("n", [2, 16])
def test_scripts_are_valid_shell_whatever_the_path(tmp_path, n):
    settings, home = SlurmConfig(gpus=0), tmp_path / "a 'b' \"c\" $d `e`"
    for made in (
        worker_job(settings, home, "t", "n"),
        gang_job(settings, home / "run", home / "base", n, "n"),
    ):
        subprocess.run(["bash", "-n"], input=made.script, text=True, check=True)
        assert sys.executable in made.script
    assert f"--nodes={max(1, n // 8)}" in made.options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{kind: slurm, minutes: 2, save_s: 120}", "save_s is 120"),
        ('{kind: slurm, flags: ["a\\nb"]}', "not one line"),
        ("{kind: slurm, partitoin: x}", "partition"),
        ("{kind: slurm, workers: 0}", "workers"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_their_line(text, words):
    with pytest.raises(ConfigError) as error:
        LaunchConfig.parse(parse_yaml(f"executor: {text}", "a.yaml"))
    assert words in str(error.value)
    assert "a.yaml:1" in error.value.where


def test_a_gang_has_to_fill_its_nodes(tmp_path, answers):
    executor = start(tmp_path, processes_per_node=4)
    executor.check(job(tmp_path, "fits", processes=8))
    with pytest.raises(LaunchError, match="do not fill nodes of 4"):
        executor.check(job(tmp_path, "odd", processes=6))


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("PENDING", "queued"), ("RUNNING", "running"), ("COMPLETING", "running"), ("REQUEUED", "queued")],
)
def test_a_gang_is_in_the_state_that_slurm_says(tmp_path, answers, state, outcome):
    executor = start(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    answers("squeue", f"7|{state}|{executor._gangs.name_of('gang')}|None\n")
    assert executor.poll() == {"gang": outcome}


def test_a_gang_that_slurm_lost_is_killed_and_one_at_its_wall_time_goes_on(tmp_path, answers):
    executor = start(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    states = [executor.poll()["gang"] for _ in range(4)]
    assert states[:3] == ["running"] * 3
    assert states[3].outcome == "killed"

    executor.submit(job(executor.queue.home, "gang", processes=2))
    base = executor.queue.path / "gangs"
    for rank in range(2):
        (base / f"gang.7.0-{rank}.json").write_text('{"outcome": "interrupted"}')
    (base / "gang.7.0.exit").write_text("1\n")
    answers("sbatch", "8\n")
    assert executor.poll()["gang"] == "queued"
    assert executor._gangs.open["gang"].id == "8"
    (base / "gang.8.0.exit").write_text("0\n")
    for rank in range(2):
        (base / f"gang.8.0-{rank}.json").write_text('{"outcome": "done"}')
    assert executor.poll()["gang"].outcome == "done"


def cancels(answers):
    return [call for call in answers.calls() if call.startswith("scancel")]


AWAY = {"status": 1, "error": "scancel: error: Socket timed out on send/recv operation\n"}


def test_a_gang_is_stopped_once_slurm_takes_the_command_and_killed_until_it_is_gone(tmp_path, answers):
    executor = start(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    answers("squeue", f"7|RUNNING|{executor._gangs.name_of('gang')}|None\n")
    executor.poll()
    answers("scancel", **AWAY)
    executor.cancel(["gang"], now=False)
    executor.poll()
    assert cancels(answers) == ["scancel --signal=USR1 --batch 7"] * 2
    answers("scancel")
    executor.poll()
    executor.poll()
    assert cancels(answers) == ["scancel --signal=USR1 --batch 7"] * 3

    answers("scancel", **AWAY)
    executor.cancel(["gang"], now=True)
    answers("scancel")
    executor.poll()
    executor.poll()
    assert cancels(answers)[3:] == ["scancel 7"] * 3
    answers("squeue", "")
    states = [executor.poll()["gang"] for _ in range(4)]
    assert states[:3] == ["running"] * 3
    assert states[3].outcome == "interrupted"


def test_a_gang_whose_submission_was_not_answered_is_looked_for_before_it_is_submitted_again(
    tmp_path, answers
):
    executor = start(tmp_path)
    answers("sbatch", status=1, error="sbatch: error: Socket timed out on send/recv operation\n")
    executor.submit(job(executor.queue.home, "gang", processes=2))
    answers("sbatch", "9\n")
    assert [executor.poll()["gang"] for _ in range(2)] == ["queued"] * 2
    answers("squeue", f"7|PENDING|{executor._gangs.name_of('gang')}|None\n")
    assert executor.poll() == {"gang": "queued"}
    assert executor._gangs.open["gang"].id == "7"

    answers("squeue", "")
    executor._gangs.open["gang"].id = None
    for _ in range(3):
        executor.poll()
    assert executor._gangs.open["gang"].id == "9"
    assert sum(call.startswith("sbatch") for call in answers.calls()) == 2


def test_a_stopped_gang_that_turns_up_late_is_cancelled_and_so_is_its_twin(tmp_path, answers):
    executor = start(tmp_path)
    answers("sbatch", status=1, error="sbatch: error: Socket timed out on send/recv operation\n")
    executor.submit(job(executor.queue.home, "gang", processes=2))
    executor.cancel(["gang"], now=False)
    assert executor.poll() == {"gang": "queued"}
    assert cancels(answers) == []
    name = executor._gangs.name_of("gang")
    answers("squeue", f"7|PENDING|{name}|None\n8|PENDING|{name}|None\n")
    executor.poll()
    assert cancels(answers) == ["scancel 7 8"]


def test_gangs_of_a_dead_driver_are_found_though_slurm_does_not_answer_at_first(tmp_path, answers):
    executor = start(tmp_path)
    jobs = [job(executor.queue.home, name, processes=2) for name in ("gone", "there", "done")]
    jobs[2].dir.result_path.write_text("{}")
    answers("squeue", status=1, error="squeue: error: Unable to contact slurm controller\n")
    assert executor.find(jobs) == ("gone", "there")
    assert executor.poll() == {"gone": "unknown", "there": "unknown"}
    answers("squeue", f"5|RUNNING|{executor._gangs.name_of('there')}|None\n")
    states = [executor.poll() for _ in range(3)]
    assert states[-1] == {"gone": "queued", "there": "running"}
    assert [gang.id for gang in executor._gangs.open.values()] == ["7", "5"]
    assert sum(call.startswith("sbatch") for call in answers.calls()) == 1


def test_what_slurm_accepts_and_will_never_start_is_refused_and_cancelled(tmp_path, answers):
    executor, _ = queued(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    names = executor._name, executor._gangs.name_of("gang")
    answers("squeue", f"7_0|PENDING|{names[0]}|PartitionTimeLimit\n8|PENDING|{names[1]}|BadConstraints\n")
    states = [executor.poll() for _ in range(3)]
    assert states[:2] == [{"job0": "queued", "gang": "queued"}] * 2
    for name, words in (("job0", "7 and will not start it: PartitionTimeLimit"), ("gang", "8 and will not")):
        assert states[2][name].outcome == "refused"
        assert words in states[2][name].reason
        assert "minutes" in states[2][name].fix
    assert [c for c in answers.calls() if c.startswith("scancel")] == ["scancel 8", "scancel 7_0"]


def stuck_states(executor, answers, first="7_0|PENDING"):
    """States of four polls in which Slurm gives PartitionNodeLimit for a worker and a gang."""
    names = executor._name, executor._gangs.name_of("gang")
    answers("squeue", f"{first}|{names[0]}|PartitionNodeLimit\n8|PENDING|{names[1]}|PartitionNodeLimit\n")
    return [executor.poll() for _ in range(4)]


@pytest.mark.parametrize("state", ["drained", "draining", "down*", "idle*", "maint", "idle$", "unknown", ""])
def test_what_waits_for_nodes_that_are_down_or_drained_is_neither_refused_nor_cancelled(
    tmp_path, answers, state
):
    executor, _ = queued(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    answers("scontrol", "JobId=7 JobState=PENDING Reason=PartitionNodeLimit Partition=main\n")
    answers("sinfo", f"idle\n{state}\n" if state else "")
    assert stuck_states(executor, answers) == [{"job0": "queued", "gang": "queued"}] * 4
    assert not any(call.startswith("scancel") for call in answers.calls())
    assert "sinfo -h -a -p main -o %T" in answers.calls()


def test_more_nodes_than_a_partition_gives_are_refused_where_all_its_nodes_are_up(tmp_path, answers):
    executor, _ = queued(tmp_path)
    executor.submit(job(executor.queue.home, "gang", processes=2))
    answers("scontrol", "JobId=7 JobState=PENDING Reason=PartitionNodeLimit Partition=main\n")
    answers("sinfo", "idle\nmixed-\nallocated\nidle~\n")
    states = stuck_states(executor, answers)[2]
    assert [states[name].outcome for name in ("job0", "gang")] == ["refused"] * 2
    assert [c for c in answers.calls() if c.startswith("scancel")] == ["scancel 8", "scancel 7_0"]


def test_workers_that_run_go_on_beside_one_that_never_starts(tmp_path, answers):
    executor, _ = queued(tmp_path, 2)
    tasks = f"7_0|RUNNING|{executor._name}|None\n7_1|PENDING|{executor._name}|PartitionTimeLimit\n"
    answers("squeue", tasks)
    assert [executor.poll() for _ in range(4)] == [{"job0": "queued", "job1": "queued"}] * 4
    assert not any(call.startswith(("scancel", "sbatch")) for call in answers.calls())

    stuck = [SlurmTask("7_0", "RUNNING", "n", "None"), SlurmTask("7_1", "PENDING", "n", "InvalidQOS")]
    assert "InvalidQOS" in slurm.withdraw_stuck(stuck).problem
    assert [c for c in answers.calls() if c.startswith("scancel")] == ["scancel 7_1"]

    answers("squeue", tasks.replace("RUNNING", "COMPLETED"))
    states = [executor.poll() for _ in range(3)][2]
    assert [states[f"job{i}"].outcome for i in range(2)] == ["refused"] * 2, "no worker is left"


def test_a_list_that_cannot_be_had_is_asked_for_again(answers):
    for error in ("slurm_load_jobs error: Unexpected message received", ""):
        answers("squeue", status=1, error=error)
        with pytest.raises(slurm.SlurmUnavailable):
            slurm.tasks_named(["n"])


def test_our_names_are_taken_from_the_output_of_squeue(answers):
    answers("squeue", "12_3|RUNNING|n|None\n13|COMPLETED|n|a|b\nnonsense\n")
    first, second = slurm.tasks_named(["n"])
    assert (first.id, first.job, first.is_live, first.has_begun) == ("12_3", "12", True, True)
    assert (second.is_live, second.reason) == (False, "a|b")
