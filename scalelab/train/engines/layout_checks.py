"""Whether a run can be spread over a layout, known before any process starts. No torch."""

from scalelab.errors import LaunchError
from scalelab.hardware.layout import Layout
from scalelab.train.spec import RunSpec


def refused_setting(
    layout: Layout, cross_entropy: str, cuda_graphs: str, matmul: str
) -> tuple[str, str] | None:
    """Return which setting a run over several processes cannot follow, and the fix; None where it can.

    Args:
        layout: Layout of the run.
        cross_entropy: auto, plain or chunked, as in RunSpec.
        cuda_graphs: auto, off or on, as in RunSpec.
        matmul: plain or fp8, as in RunSpec.
    """
    if cross_entropy == "chunked" and (layout.tensor > 1 or layout.pipeline > 1):
        cut = "the vocabulary is cut" if layout.tensor > 1 else "pipeline stages give plain logits"
        return (
            f"cross_entropy is chunked, and {cut}",
            "set `cross_entropy: auto`, or choose tensor 1 and pipeline 1",
        )
    if cuda_graphs == "on" and layout.devices > 1:
        return (
            f"cuda_graphs is on, and {layout.devices} processes share the run",
            "set `cuda_graphs: auto`, which is off there, or use one device",
        )
    if matmul == "fp8" and layout.devices > 1:
        # Each process would round its own rows, and pieces of weights, by scales of its own.
        return (
            f"matmul is fp8, and {layout.devices} processes share the run",
            "set `matmul: plain`, or use one device",
        )
    return None


def refuse_layout(layout: Layout, spec: RunSpec) -> None:
    """Refuse a layout that cannot carry this run.

    Raises:
        LaunchError: Something does not divide, or a setting asks for what the layout cannot; the message
            names it with its numbers.
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
        refused_setting(layout, spec.cross_entropy, spec.cuda_graphs, spec.matmul) or (None, ""),
        (
            layout.devices > 1
            and not spec.optimizer.is_shardable
            and f"the optimizer {spec.optimizer.kind} needs whole matrices in one process",
            "launch on one device, or choose the optimizer adamw",
        ),
        (
            1 < layout.pipeline > layout.micro_batches
            and f"{layout.micro_batches} micro-batches do not fill {layout.pipeline} pipeline stages",
            "choose micro_batches of at least as many as there are stages",
        ),
    ):
        if problem:
            raise LaunchError(problem, where=f"layout {layout}", fix=fix)
