"""Inside one process of a launched run: join the others, train, say how it ended.

Two ways in. On one machine the supervisor forks these processes (ranks.py). On several, torchrun
starts them, with the supervisor left out and a scheduler to start them again:

    torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 0 -m scalelab.launch.rank RUN_DIR

torchrun's own restarts are of no use here: the new processes meet the keys of the old ones in
the store they share and wait for ever (pytorch#135712). What they have to know stands in
RUN_DIR/launch.json.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from scalelab.errors import RunError, ScalelabError
from scalelab.files import write_text
from scalelab.launch.ranks import written_down
from scalelab.launch.worker import be_first_to_die, leave_with_parent
from scalelab.leases import TTL_S, follows
from scalelab.train.device import OutOfMemory, find_device, use_threads
from scalelab.train.loop import Launched, train
from scalelab.train.rundir import LEASE, RunDir
from scalelab.train.sharded import leave

JOIN_TIMEOUT_S = 120.0
"""How long processes wait for one another before they take one for dead."""


def work(
    path: str,
    threads: int | None,
    environ: dict[str, str],
    report: Connection,
) -> None:
    """The body of a process that the supervisor started: train its part, report, exit."""
    os.environ.update(environ)
    leave_with_parent()
    be_first_to_die()
    run_dir = RunDir(Path(path))
    try:
        if (attempt := written_down(run_dir).attempt) is not None:
            run_dir = replace(run_dir, guard=follows(run_dir.path, LEASE, attempt))
        report.send((_train(run_dir, threads), None))
    except ScalelabError as error:
        report.send(("refused", str(error)))
    except (MemoryError, OutOfMemory) as error:
        report.send(("out_of_memory", f"{error}".splitlines()[0]))
    except BaseException as error:
        if _peer_is_gone(error):
            report.send(("killed", f"another process is gone: {error}".splitlines()[0]))
        else:
            text = traceback.format_exc()
            write_text(run_dir.path / f"traceback-{os.environ.get('RANK', '0')}.txt", text)
            report.send(("error", text.strip().splitlines()[-1]))
        report.close()
        os._exit(1)  # threads of a broken process group would keep it alive


def _train(run_dir: RunDir, threads: int | None) -> str:
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    # A loss that is a view of what FSDP gathered is only read here, never changed in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    use_threads(threads)
    known = written_down(run_dir)
    layout = known.layout
    if layout.devices > 1:
        from scalelab.train.parallel import join

        join(JOIN_TIMEOUT_S, find_device())

    stacks = open(run_dir.path / f"stalled-{os.environ.get('RANK', '0')}.txt", "w")  # noqa: SIM115

    def alive() -> None:
        # If no further step comes in time, every thread's stack is written and the process ends.
        faulthandler.dump_traceback_later(known.stall_timeout_s, exit=True, file=stacks)

    alive()
    try:
        launched = Launched(layout, known.stability, known.checkpoint_s, alive)
        result = train(run_dir, asked_to_stop.is_set, launched)
        leave()
        return "interrupted" if result is None else "done"
    finally:
        faulthandler.cancel_dump_traceback_later()
        stacks.close()
        Path(stacks.name).unlink()


def _peer_is_gone(error: BaseException) -> bool:
    """Whether a collective failed because another process went away: not our bug."""
    text = str(error).lower()
    gone = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "timeout")
    return isinstance(error, RuntimeError) and any(word in text for word in gone)


def main(path: str) -> int:
    """The body of a process that torchrun started."""
    local = os.environ.get("LOCAL_RANK", "0")
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = local
    else:
        shown = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = shown[int(local) % len(shown)]
    run_dir = RunDir(Path(path))
    if not run_dir.launch_path.exists():
        raise RunError(
            "there is no launched run here",
            where=str(run_dir.launch_path),
            fix="write it down first: scalelab launch PLAN --prepare",
        )
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":
            # The run may have been another machine's a moment ago: wait until its lease runs out.
            run_dir, _ = stack.enter_context(run_dir.claimed(wait_s=1.5 * TTL_S))
        ended = _train(run_dir, None)
    return 0 if ended == "done" else 130


if __name__ == "__main__":
    try:
        code = main(sys.argv[1])
    except ScalelabError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is written; torch's own threads may abort an orderly end
