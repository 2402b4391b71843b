"""Memory and layout of a plan as blocks of its Document.

Not here: the numbers (plan/cost/placement.py), time and money (costs.py).
"""

from scalelab.plan.cost.layout_estimate import PLANNED_ONLY
from scalelab.plan.cost.layout_estimate import words as layout_words
from scalelab.plan.cost.memory import PARTS
from scalelab.plan.cost.placement import Placement
from scalelab.report.document import Block, Bullets, Content, Facts, Heading, Number, Paragraph
from scalelab.train.memory import SHARE_OF_DEVICE
from scalelab.units import size_text


def memory_blocks(placement: Placement) -> list[Block]:
    """Return the layout of a run, the state of its model and the memory of its fullest device."""
    if placement.memory is None:
        return [Heading("Memory: unknown"), Paragraph("No shape of this size is known.")]
    found = placement.memory
    shape = "an assumed shape" if placement.is_assumed else "the model above"
    by_part = {part: getattr(found, f"{part}_bytes") for part in PARTS}
    parts = ", ".join(f"{part} {size_text(value)}" for part, value in by_part.items() if value)
    facts: list[tuple[str, Content]] = [
        ("layout", _layout_text(placement)),
        (
            "whole model",
            [
                Number(size_text(placement.state_bytes), "computed"),
                f": weights, gradients, optimizer; {placement.state_bytes / placement.shape.n_params:g} bytes a "
                f"parameter{_copies(placement)}",
            ],
        ),
        ("fullest device", Number(f"{size_text(found.total_bytes)}: {parts}", "computed")),
    ]
    if placement.room_bytes is None:
        facts.append(("device", "its memory is unknown, so whether the run fits is unknown"))
    else:
        share = found.total_bytes / placement.room_bytes
        facts.append(
            (
                "device",
                f"{share:.0%} of its {size_text(placement.room_bytes)}; a layout may use up to {SHARE_OF_DEVICE:.0%}",
            )
        )
    if placement.is_least:
        facts.append(
            (
                "devices",
                f"{placement.layout.devices}, the smallest power of two that fits; set another number with --gpus",
            )
        )
    if placement.other_counts:
        facts.append(("other numbers", _other_counts(placement)))
    if found.host_bytes:
        facts.append(("host memory", f"{size_text(found.host_bytes)} for each process"))
    return [Heading(f"Memory and layout (computed, for {shape})"), Facts(facts), *_layouts(placement)]


def _copies(placement: Placement) -> str:
    """What one process alone stores beside the state, so that the two lines of memory agree."""
    found, shape = placement.memory, placement.shape
    if placement.layout.devices > 1 or found.host_bytes:
        return ""
    stored = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    per_param = stored / shape.model.size(shape.seq_len).n_params_total
    return f"; {per_param:.3g} on one device, with bf16 copies of weights and gradients"


def _layout_text(placement: Placement) -> str:
    note = placement.estimate and placement.estimate.note
    return layout_words(placement.layout) + (f" ({note})" if note == PLANNED_ONLY else "")


def _other_counts(placement: Placement) -> str:
    """The nearby numbers of devices that work better, with the share of a step that computes."""
    here = placement.estimate.shares["computing"]
    others = " and ".join(f"{one.count:,} devices {one.computing:.0%}" for one in placement.other_counts)
    return (
        f"{placement.layout.devices:,} devices divide badly: {here:.0%} of a step is computing (estimated); with "
        f"{others}"
    )


def _layouts(placement: Placement) -> list[Block]:
    """What the chosen layout loses, and the next best ones."""
    if not placement.considered:
        return []
    best = placement.considered[0]
    step_s = best.step_s
    sent = ", ".join(f"{size_text(n)} ({axis})" for axis, n in best.sent_bytes.items())
    lost = [f"each device sends {sent or 'nothing'} a step"]
    if best.shares is not None:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in best.shares.items() if share >= 0.005)
        lost.insert(0, f"a step is {shares}")
    fit = [one for one in placement.considered if one.fits]
    windows = f"{placement.rows} window{'s' if placement.rows > 1 else ''}"
    items = [
        f"the cheapest of {len(fit)} layouts that fit, of {len(placement.considered)} evaluated; micro-batches "
        f"of {windows}",
        f"estimated: {'; '.join(lost)}",
    ]
    for one in fit[1:3]:
        more = (
            "" if step_s is None or one.step_s is None else f"; a step takes {one.step_s / step_s - 1:+.1%}"
        )
        items.append(f"next best: {layout_words(one.layout)}{more}")
    return [Bullets(items)]
