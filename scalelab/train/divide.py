"""Whether a run divides over a layout, known before any process starts. No torch."""

from scalelab.errors import LaunchError
from scalelab.train.layout import Layout
from scalelab.train.spec import RunSpec


def refuse_layout(layout: Layout, spec: RunSpec) -> None:
    """Refuse a layout that cannot carry this run.

    Raises:
        LaunchError: Something does not divide; the message names it with its numbers.
    """
    rows = spec.batch_tokens // spec.seq_len
    data = layout.replicate * layout.shard
    for problem, fix in (
        (
            layout.context > 1 and "context parallel is planned for, and not launched",
            "use layouts with context 1",
        ),
        (
            rows % (data * layout.micro_batches)
            and f"a batch of {rows} windows does not divide into {data} processes x "
            f"{layout.micro_batches} micro-batches",
            "choose replicate x shard x micro_batches that divides the batch",
        ),
        spec.model.refusal(layout) or (None, ""),
        (
            1 < layout.pipeline > layout.micro_batches
            and f"{layout.micro_batches} micro-batches do not fill {layout.pipeline} pipeline "
            "stages",
            "choose micro_batches of at least as many as there are stages",
        ),
    ):
        if problem:
            raise LaunchError(problem, where=f"layout {layout}", fix=fix)
