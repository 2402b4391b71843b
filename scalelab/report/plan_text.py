"""A plan in words and numbers: what a terminal shows, and what its page repeats.

Every block says what its numbers are: extrapolated, fitted, planned, computed, measured,
assumed or literature.

Not here: the page (plan_page.py), the words of memory, time and money (plan_costs.py).
"""

from collections.abc import Callable

from scalelab.laws.lawtext import between, wrapped
from scalelab.plan.allocate import Allocation, LawRow
from scalelab.plan.choice import Choice
from scalelab.plan.final import described
from scalelab.report.planned import Planned
from scalelab.units import sci, si

SHOWN = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 4.0)  # multiples of the best size
REASONS = 4  # of the verdict, shown here; the page has all

QUANTITIES: tuple[tuple[str, str, Callable[[float], str], str], ...] = (
    ("n_params", "N*", si, "parameters"),
    ("n_tokens", "D*", si, "tokens"),
    ("tokens_per_param", "D*/N*", lambda v: f"{v:.3g}", "tokens per parameter"),
    ("loss", "L*", lambda v: f"{v:.3f}", "nats per token"),
)


def text(planned: Planned) -> str:
    """The whole plan, a block a thought."""
    blocks = [_head(planned)]
    if planned.best is not None:
        blocks += [_allocation(planned), _regret(planned.best)]
    blocks += [choice_text(name, choice) for name, choice in planned.choices.items()]
    blocks += [_model(planned), planned.fits.block(), *planned.costs.blocks()]
    if planned.frozen is not None:
        blocks += [_forecast(planned), _verdict(planned)]
    if planned.plan.notes:
        blocks.append("Notes\n" + "\n".join(wrapped(note, "  - ") for note in planned.plan.notes))
    return "\n\n".join(blocks)


def _head(planned: Planned) -> str:
    plan, said = planned.plan, planned.said
    if planned.source is None:
        lines = [f"What {si(plan.n_params)} parameters on {si(plan.n_tokens)} tokens take"]
        lines.append(wrapped(f"budget: {said.words}"))
        lines.append("  no evidence was named, so no loss is foretold: costs and memory only")
        return "\n".join(lines)
    runs = planned.source.seen
    largest = planned.source.observations.largest_budget
    return "\n".join(
        [
            f"Plan {plan.name}: what to train with {sci(said.flops)} FLOPs ({plan.flop_count})",
            wrapped(f"budget: {said.words}"),
            wrapped(
                f"evidence: {len(runs.table)} runs of {planned.source.where} [{runs.kind}], "
                f"up to {sci(largest)} FLOPs; the budget is {said.flops / largest:.3g} times that"
            ),
        ]
    )


def _allocation(planned: Planned) -> str:
    best: Allocation = planned.best
    state = best.kind.upper() if best.kind == "extrapolated" else best.kind
    lines = [
        f"The best use of it [{state} {best.reach:.3g}x, by {best.law}]; "
        f"N is the {planned.plan.param_count} count",
        f"  {'':6} {'best':>7}  {f'{best.level:.0%} noise':18} {f'{best.level:.0%} quoted':18}",
    ]
    for key, symbol, write, unit in QUANTITIES:
        noise, quoted = best.statistical[key], best.intervals[key]
        lines.append(
            f"  {symbol:6} {write(getattr(best, key)):>7}  {between(noise, write):18} "
            f"{between(quoted, write):18} {unit}"
        )
    lines.append("  quoted: at each end the farther of noise and choice of law; plan with that")
    lines += [f"  law by law {'N*':>10} {'D*':>8} {'D*/N*':>7} {'L*':>7}   N*, noise"]
    lines += [_row(row) for row in best.laws]
    apart = best.disagreement
    if "n_params" in apart:
        lines.append(f"  they differ {apart['n_params']:.2f}x in N*, {apart['loss'] - 1:.1%} in L*")
    return "\n".join(lines)


def _row(row: LawRow) -> str:
    cells = [
        "-" if value is None else write(value)
        for value, write in (
            (row.n_params, si),
            (row.n_tokens, si),
            (row.tokens_per_param, lambda v: f"{v:.3g}"),
            (row.loss, lambda v: f"{v:.3f}"),
        )
    ]
    ends = between(row.intervals.get("n_params"), si) if row.n_params is not None else ""
    line = f"  {row.law:10} {cells[0]:>10} {cells[1]:>8} {cells[2]:>7} {cells[3]:>7}   {ends}"
    if row.refuted is None:
        return line.rstrip()
    return f"{line.rstrip()}\n{wrapped(f'does not count: {row.refuted}', '    ')}"


def _regret(best: Allocation) -> str:
    if best.valley is None:
        return f"What a wrong size costs: unknown\n{wrapped(best.valley_absent)}"
    by_multiple = {m.k: m for m in best.regret}
    shown = [by_multiple[k] for k in SHOWN]
    lines = [
        f"What a wrong size costs, same budget [{best.kind}, {best.valley.how}]",
        "  size   " + " ".join(f"{f'{m.k:g}x':>6}" for m in shown),
        "  wasted " + " ".join(f"{m.wasted:>6.1%}" for m in shown) + "  of the compute",
    ]
    if best.near_optimal is not None:
        low, high = best.near_optimal["n_params"]
        few, many = best.near_optimal["tokens_per_param"]
        lines.append(
            f"  at most {best.near_bound:.0%} wasted from {si(low)} to {si(high)} parameters "
            f"({few:.3g} to {many:.3g} tokens per parameter)"
        )
    if best.at_stake is not None:
        lines.append(
            f"  if N* lies at the worse end of its quoted interval, {best.at_stake:.1%} is wasted"
        )
    return "\n".join(lines)


def choice_text(name: str, choice: Choice) -> str:
    """One constrained variant: its sentence, its doubt, what was taken for granted."""
    state = choice.kind.upper() if choice.kind == "extrapolated" else choice.kind
    lines = [f"With {_asked(name)} [{state}, by {choice.law}]", wrapped(choice.words)]
    ends = [
        f"{symbol.rstrip('*')} {between(choice.intervals[key], write)}"
        for key, symbol, write, _ in QUANTITIES
        if choice.intervals.get(key) is not None
    ]
    if ends:
        lines.append(wrapped(f"{choice.level:.0%} by noise of that law: {', '.join(ends)}"))
    if choice.assumptions:
        lines.append(wrapped(f"given: {'; '.join(choice.assumptions)}"))
    if name.startswith("demand"):
        lines.append(
            f"  to plan that one: --params {choice.n_params:.4g} --tokens {choice.n_tokens:.4g}"
        )
    return "\n".join(lines)


def _asked(name: str) -> str:
    kind, _, objective = name.partition(", ")
    if kind != "demand":
        return f"{name} given"
    return f"the use of the model counted ({objective}; the quality of the best one kept)"


def _model(planned: Planned) -> str:
    if planned.final is not None:
        whose = "the optimum" if planned.chosen == "optimum" else f"{planned.chosen} given"
        return "\n".join([f"The model to be trained [planned, {whose}]", *described(planned.final)])
    if planned.shape is None:
        return "The model: no recipe, and no shape to assume of that size; memory is unknown"
    shape = planned.shape
    n_params = shape.model.size(shape.seq_len).count(planned.plan.param_count)
    return "\n".join(
        [
            "The model: no recipe says its shape; for memory alone one is [assumed], like Llama's",
            f"  {shape.model.words()}: {si(n_params)} parameters",
            f"  context {shape.seq_len:,}, batch of {si(shape.batch_tokens)} tokens",
        ]
    )


def _forecast(planned: Planned) -> str:
    frozen = planned.frozen
    lines = [
        f"Forecast [EXTRAPOLATED {frozen.reach:.3g}x], frozen as {frozen.digest[:12]}",
        f"  loss {frozen.loss:.4f} nats per token for N {si(frozen.actual['n_params'])}, "
        f"D {si(frozen.actual['n_tokens'])}",
        f"  {frozen.level:.0%} quoted {between(frozen.quoted, lambda v: f'{v:.4f}')}, "
        f"by noise {between(frozen.statistical, lambda v: f'{v:.4f}')}",
        _holdout(frozen.holdout, frozen.holdout_absent),
    ]
    if frozen.band is not None:
        n = len(frozen.band["runs"])
        lines.append(f"  loss on the way: a band from the curves of {n} runs of the evidence")
    else:
        lines.append(wrapped(f"loss on the way: no band, since {frozen.band_absent}"))
    if frozen.override is not None:
        lines.append(wrapped(f"overridden: {frozen.override}"))
    return "\n".join(lines)


def _holdout(holdout: dict | None, absent: str | None) -> str:
    if holdout is None:
        return wrapped(f"hold-out: none, {absent}")
    passed = "passed" if holdout["passed"] else "FAILED"
    return (
        f"  hold-out {passed}: off by {holdout['error']:.2%} at {holdout['fold']:.3g}x beyond what "
        "was fitted"
    )


def _verdict(planned: Planned) -> str:
    reasons = planned.reasons or ("nothing in the evidence speaks against it",)
    shown = [wrapped(reason, "  - ") for reason in reasons[:REASONS]]
    more = len(reasons) - REASONS
    shown += [f"  - and {more} more, on the page"] if more > 0 else []
    return "\n".join([f"Verdict: {planned.best.grade}", *shown])
