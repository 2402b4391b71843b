"""Logs of the workers and batch jobs of a sweep or post-training, for `scalelab runs NAME`.

Not here: the queue (jobs/queue.py), states of runs (runs.py), which are those of their directories.
"""

from pathlib import Path

from scalelab.errors import ScalelabError
from scalelab.files import matching
from scalelab.jobs.queue import JobQueue
from scalelab.report.document import Block, Bullets, Code, Content, Paragraph, Strong


def queue_blocks(home: Path) -> list[Block]:
    """Return where the logs are, and that of each job that ended without a result; nothing without a queue.

    Args:
        home: Directory of the sweep or post-training.
    """
    queue = JobQueue(home)
    if not queue.exists:
        return []
    logs = {worker.worker: worker.log for worker in queue.workers() if worker.log is not None}
    lost: list[Content] = []
    for ticket in queue.tickets():
        try:
            end = queue.end(ticket)
        except ScalelabError:
            continue
        if end is not None and end.outcome not in {"done", "interrupted"}:
            log = logs.get(end.worker or "")
            where: list[Content] = [] if log is None else ["; log: ", Code(log)]
            lost.append(
                [Strong(ticket.job), f": {end.outcome}, {end.reason or 'no reason recorded'}", *where]
            )
    blocks: list[Block] = [Bullets(lost)] if lost else []
    if logs or matching(queue.logs, "*.log") or any(matching(queue.path / "gangs", "*.log")):
        of_gangs = any(matching(queue.path / "gangs", "*.log"))
        also = [" and of runs on several nodes: ", Code(str(queue.path / "gangs"))] if of_gangs else []
        blocks.append(Paragraph(["Logs of workers: ", Code(str(queue.logs)), *also]))
    return blocks
