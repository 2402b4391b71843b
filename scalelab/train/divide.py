"""Whether a run divides over a layout, known before any process starts. No torch."""

from scalelab.errors import LaunchError
from scalelab.train.layout import Layout
from scalelab.train.spec import RunSpec


def refuse_layout(layout: Layout, spec: RunSpec) -> None:
    """Refuse a layout that cannot carry this run.

    Raises:
        LaunchError: Something does not divide; the message names it with its numbers.
    """
    model, rows = spec.model, spec.batch_tokens // spec.seq_len
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
        (
            model.d_model % layout.shard
            and f"d_model {model.d_model} does not divide over {layout.shard} shards",
            "choose a shard that divides d_model, and more replicas",
        ),
        (
            (model.n_kv_heads % layout.tensor or model.d_ff % layout.tensor)
            and f"{model.n_kv_heads} key-value heads and d_ff {model.d_ff} do not both divide "
            f"over {layout.tensor} processes",
            "choose a tensor degree that divides both",
        ),
        (
            layout.pipeline > model.n_layers
            and f"{model.n_layers} layers do not fill {layout.pipeline} pipeline stages",
            "choose at most as many stages as there are layers",
        ),
        (
            1 < layout.pipeline > layout.micro_batches
            and f"{layout.micro_batches} micro-batches do not fill {layout.pipeline} pipeline "
            "stages",
            "choose micro_batches of at least as many as there are stages",
        ),
        (
            layout.pipeline > 1
            and model.tied
            and "a tied head lies in another pipeline stage than its embedding",
            "choose pipeline 1, or a recipe whose head is not tied",
        ),
    ):
        if problem:
            raise LaunchError(problem, where=f"layout {layout}", fix=fix)
