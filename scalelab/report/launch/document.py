"""A plan before it is launched, as a Document: the run, its forecast, its layout and the warnings."""

from scalelab.launch.final_run import FinalRun
from scalelab.plan.cost.layout_estimate import words
from scalelab.report.document import Block, Bullets, Document, Facts, Number
from scalelab.units import decimals, interval_text, multiple, sci, si


def launch_document(final: FinalRun) -> Document:
    """Return what will be trained, and what is forecast of it."""
    plan, spec, frozen = final.plan, final.plan.spec, final.frozen
    size = spec.model.size(spec.seq_len)
    blocks: list[Block] = [
        Facts(
            [
                (
                    "run",
                    f"{si(size.count(frozen.param_count))} parameters ({frozen.param_count}), "
                    f"{si(spec.n_tokens)} tokens, {spec.n_steps:,} steps of {spec.batch_tokens:,}, "
                    f"{sci(size.flops_per_token * spec.n_tokens)} FLOPs",
                ),
                (
                    "forecast",
                    [
                        Number(f"loss {frozen.loss:.3f} nats per token", "extrapolated", labelled=True),
                        f", {frozen.level:.0%} interval {interval_text(frozen.quoted, decimals(3))}, "
                        f"{multiple(frozen.reach)} the evidence, {frozen.law} law, frozen as {frozen.digest[:12]}",
                    ],
                ),
                ("layout", words(final.layout)),
                ("run directory", str(final.run_dir.path)),
            ]
        )
    ]
    if frozen.warnings:
        blocks.append(Bullets([f"warning: {warning}" for warning in frozen.warnings]))
    return Document(f"Launch {plan.name}", blocks)
