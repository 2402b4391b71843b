"""A plan as one Document: budget, optimum, cost of a wrong size, variants, model, memory, costs, forecast.

Numbers have their kind: extrapolated or fitted for what laws predict, computed for arithmetic on the
recipe and the layout, measured, assumed or literature for throughput, prices and carbon.

Not here: the numbers (plan/), the figure (plots.py), the files (page.py).
"""

from collections.abc import Callable, Sequence

from scalelab.plan.choose.allocate import Allocation
from scalelab.plan.choose.constrained_optimum import ConstrainedOptimum
from scalelab.plan.plan import FinalModel, phases
from scalelab.plan.planner import OPTIMUM, PlanResult
from scalelab.plan.run_settings import settings_of
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Link,
    Number,
    Paragraph,
    Strong,
    Table,
)
from scalelab.report.plan.costs import cost_blocks
from scalelab.report.plan.memory import memory_blocks
from scalelab.report.table_reading import left_out_blocks, reading_facts
from scalelab.study.forecast import CALIBRATED, CHOICE
from scalelab.units import PARAM_COUNTS, decimals, digits, interval_text, multiple, sci, si

SHOWN = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 4.0)
"""Sizes of the regret table, as multiples of the best one."""
Write = Callable[[float], str]
QUANTITIES: tuple[tuple[str, str, Write, str], ...] = (
    ("n_params", "N*", si, "parameters"),
    ("n_tokens", "D*", si, "tokens"),
    ("tokens_per_param", "D*/N*", digits(3), "tokens per parameter"),
    ("loss", "L*", decimals(3), "nats per token"),
)


def plan_document(
    planned: PlanResult, *, figures: Sequence[Figure] = (), verdict_first: bool = False
) -> Document:
    """Return the document of a plan, or of the costs alone if there was no evidence.

    Args:
        planned: The plan.
        figures: Figures that were drawn, with captions.
        verdict_first: Whether the verdict and the figures come first, as on a page.
    """
    verdict = _verdict(planned)
    not_frozen = _not_frozen(planned)
    blocks: list[Block] = [*not_frozen, *verdict, *figures] if verdict_first else []
    if verdict_first and not figures and planned.best is not None:
        blocks.append(Paragraph(f"No figure: {planned.best.valley_absent}."))
    blocks += [*_head(planned), *([] if verdict_first else not_frozen)]
    if planned.best is not None:
        blocks += [*_allocation(planned), *_regret(planned.best)]
    for name, choice in planned.choices.items():
        blocks += _choice(name, choice)
    blocks += [*_model(planned), *memory_blocks(planned.placement), *cost_blocks(planned.costs)]
    if planned.forecast is not None:
        blocks += _forecast(planned)
    refusals = {str(refusal) for refusal in planned.not_frozen}  # shown above
    if notes := [note for note in planned.plan.notes if note not in refusals]:
        blocks += [Heading("Notes"), Bullets(notes)]
    if not verdict_first:
        blocks += verdict
    if planned.forecast is not None and planned.source is not None:
        blocks += _provenance(planned)
    return Document(f"Plan: {planned.plan.name}", blocks)


def _head(planned: PlanResult) -> list[Block]:
    plan, budget = planned.plan, planned.budget
    if planned.source is None:
        return [
            Heading(f"Cost of {si(plan.n_params)} parameters on {si(plan.n_tokens)} tokens"),
            Facts(
                [("budget", budget.words), ("evidence", "none, so no loss is forecast: cost and memory only")]
            ),
        ]
    runs = planned.source.seen
    largest = planned.source.observations.largest_budget
    return [
        Heading(f"Plan {plan.name}: {sci(budget.flops)} FLOPs ({plan.flop_count})"),
        Facts(
            [
                ("budget", budget.words),
                (
                    "evidence",
                    f"{len(runs.table)} runs of {planned.source.where} ({runs.kind}), up to {sci(largest)} FLOPs; "
                    f"the budget is {multiple(budget.flops / largest)} that",
                ),
                *reading_facts(runs.reading),
            ]
        ),
        *left_out_blocks([(item["run"], item["reason"]) for item in runs.excluded]),
    ]


def _not_frozen(planned: PlanResult) -> list[Block]:
    """Why the forecast is not frozen, and what would change that; empty where it is."""
    if not planned.not_frozen:
        return []
    title = "Not frozen"
    if planned.is_doubtful:
        title = "Do not rely on these numbers; the forecast is not frozen"
    reasons = [_sentence(refusal.reason) for refusal in planned.not_frozen]
    fixes = dict.fromkeys(_sentence(refusal.fix) for refusal in planned.not_frozen)
    blocks: list[Block] = [
        Heading(title),
        Bullets(reasons),
        Paragraph("To freeze a forecast:"),
        Bullets(list(fixes)),
    ]
    if all(refusal.overridable for refusal in planned.not_frozen):
        blocks.append(
            Paragraph(["Or give a reason, which the ledger records: ", Code('--override "REASON"'), "."])
        )
    return blocks


def _parts(best: Allocation) -> str:
    """What the quoted interval comes from, in words."""
    words = {CHOICE: "choice of law", CALIBRATED: "errors of such forecasts on public tables"}
    *first, last = ["noise", *(words[name] for name in best.quoted_from)]
    return f"{', '.join(first)} and {last}" if first else last


def _allocation(planned: PlanResult) -> list[Block]:
    best: Allocation = planned.best
    rows: list[list[Content]] = [
        [
            symbol,
            Number(write(getattr(best, key)), best.kind),
            interval_text(best.statistical[key], write),
            interval_text(best.intervals[key], write),
            unit,
        ]
        for key, symbol, write, unit in QUANTITIES
    ]
    laws: list[list[Content]] = [
        [
            row.law,
            *(
                "-" if value is None else Number(write(value), best.kind)
                for value, write in (
                    (row.n_params, si),
                    (row.n_tokens, si),
                    (row.tokens_per_param, digits(3)),
                    (row.loss, decimals(3)),
                )
            ),
            interval_text(row.intervals.get("n_params"), si) if row.n_params is not None else "",
        ]
        for row in best.laws
    ]
    apart, remarks = best.disagreement, []
    if "n_params" in apart:
        remarks.append(f"The laws differ {apart['n_params']:.2f}x in N* and {apart['loss'] - 1:.1%} in L*.")
    remarks += [f"{row.law} is not counted: {row.refuted}." for row in best.laws if row.refuted is not None]
    blocks: list[Block] = [
        Heading(f"Optimum ({best.kind} {multiple(best.reach)}, {best.law} law{_doubt(planned)})"),
        Table(
            ["", "best", f"{best.level:.0%} from noise", f"{best.level:.0%} quoted", "unit"],
            rows,
            align="lrlll",
            caption=f"Plan with the quoted interval: at each end the farthest of {_parts(best)}. "
            f"N is the {planned.plan.param_count} count.",
            optional=["unit"],
        ),
        Table(
            ["law", "N*", "D*", "D*/N*", "L*", "N* from noise"],
            laws,
            align="lrrrrl",
            caption=" ".join(remarks),
        ),
    ]
    return blocks


def _regret(best: Allocation) -> list[Block]:
    if best.valley is None:
        return [Heading("Cost of a wrong size"), Paragraph(f"Unknown. {best.valley_absent}.")]
    by_multiple = {m.k: m for m in best.regret}
    sentences = []
    if best.near_optimal is not None:
        low, high = best.near_optimal["n_params"]
        few, many = best.near_optimal["tokens_per_param"]
        sentences.append(
            f"Sizes from {si(low)} to {si(high)} parameters ({few:.3g} to {many:.3g} tokens per parameter) "
            f"waste at most {best.near_bound:.0%}."
        )
    if best.at_stake is not None:
        sentences.append(
            f"If N* lies at the worse end of its quoted interval, the plan wastes {best.at_stake:.1%} of "
            "its compute."
        )
    return [
        Heading(f"Cost of a wrong size ({best.kind}, same budget)"),
        Table(
            ["size", *(f"{k:g}x" for k in SHOWN)],
            [["compute wasted", *(Number(f"{by_multiple[k].wasted:.1%}", best.kind) for k in SHOWN)]],
            caption=" ".join([f"Computed {best.valley.how}.", *sentences]),
        ),
    ]


def _choice(name: str, choice: ConstrainedOptimum) -> list[Block]:
    kind, _, objective = name.partition(", ")
    title = f"With {name} given"
    if kind == "demand":
        title = f"Training and use together: fewest {objective} at the loss of the optimum"
    facts: list[tuple[str, Content]] = []
    for label, is_quoted in (("quoted", True), ("from noise alone", False)):
        ends = [
            f"{symbol.rstrip('*')} {interval_text(choice.intervals[key], write)}"
            for key, symbol, write, _ in QUANTITIES
            if choice.intervals.get(key) is not None and (key in choice.quoted) == is_quoted
        ]
        if ends:
            facts.append((f"{choice.level:.0%} {label}", ", ".join(ends)))
    if choice.doubt is not None:
        facts.append(("do not rely", f"{choice.law} is unreliable: {choice.doubt}"))
    if choice.assumptions:
        facts.append(("assumptions", "; ".join(choice.assumptions)))
    if kind == "demand":
        facts.append(
            ("to plan this model", Code(f"--params {choice.n_params:.4g} --tokens {choice.n_tokens:.4g}"))
        )
    return [
        Heading(f"{title} ({choice.kind}, {choice.law} law)"),
        Paragraph(_sentence(choice.words)),
        *([Facts(facts)] if facts else []),
    ]


def _model(planned: PlanResult) -> list[Block]:
    if planned.final is not None:
        which = "the optimum" if planned.chosen == OPTIMUM else f"{planned.chosen} given"
        return [
            Heading(f"Model to train (planned, {which})"),
            *_final_model(planned.final),
            *_settings(planned),
        ]
    has_recipe = planned.source is not None and planned.source.recipe is not None
    missing = "a model of the recipe" if has_recipe else "a recipe"
    if planned.shape is None:
        return [
            Heading("Model: unknown"),
            Paragraph(f"Without {missing} no shape of this size is known, so its memory is unknown."),
        ]
    shape = planned.shape
    n_params = shape.model.size(shape.seq_len).count(planned.plan.param_count)
    return [
        Heading(f"Model (assumed: without {missing} memory is computed for a shape like Llama's)"),
        Facts(
            [
                ("shape", f"{shape.model.words()}: {si(n_params)} parameters"),
                ("context", f"{shape.seq_len:,} tokens"),
                ("batch", f"{si(shape.batch_tokens)} tokens"),
            ]
        ),
    ]


def _settings(planned: PlanResult) -> list[Block]:
    """Settings of the run with their sources; on the terminal only where no run can be launched."""
    facts: list[tuple[str, Content]] = [
        (one.name, f"{one.value} [{one.kind}: {one.source}]") for one in settings_of(planned)
    ]
    is_detail = planned.plan.spec is not None
    return [
        Heading("Settings of the run, with their sources", level=3, detail=is_detail),
        Facts(facts, detail=is_detail),
    ]


def _final_model(final: FinalModel) -> list[Block]:
    spec, size, planned = final.spec, final.size, final.planned
    parts = [f"{n:,} {key.removesuffix('_steps')}" for key, n in phases(spec).items() if n is not None]
    return [
        Table(
            ["", "planned", "actual", "difference", "unit"],
            [
                [
                    symbol,
                    Number(write(planned[key]), "computed"),
                    Number(write(actual), "computed"),
                    Number(f"{actual / planned[key] - 1:+.1%}", "computed"),
                    unit,
                ]
                for symbol, key, actual, write, unit in (
                    ("N", "n_params", final.n_params, si, f"parameters ({final.param_count})"),
                    ("D", "n_tokens", final.n_tokens, si, "tokens"),
                    ("C", "flops", final.flops, sci, f"FLOPs ({final.flop_count})"),
                )
            ],
            align="lrrrl",
        ),
        Facts(
            [
                ("shape", f"{spec.model.words()}, context {spec.seq_len}"),
                (
                    "parameters",
                    ", ".join(
                        f"{size.count(c):,} {c}" for c in PARAM_COUNTS if c != "active" or size.is_sparse
                    ),
                ),
                (
                    "steps",
                    f"{spec.n_steps:,} of {spec.batch_tokens:,} tokens"
                    + (f"; {', '.join(parts)}" if parts else ""),
                ),
                ("optimizer", f"{spec.optimizer.words()}; seed {spec.seed}"),
            ]
        ),
    ]


def _forecast(planned: PlanResult) -> list[Block]:
    frozen = planned.forecast
    loss = decimals(4)
    facts: list[tuple[str, Content]] = [
        (
            "loss",
            [
                Number(f"{frozen.loss:.4f} nats per token", planned.best.kind),
                f" for N {si(frozen.actual['n_params'])}, D {si(frozen.actual['n_tokens'])}",
            ],
        ),
        (
            f"{frozen.level:.0%} intervals",
            f"quoted {interval_text(frozen.quoted, loss)}, from noise {interval_text(frozen.statistical, loss)}",
        ),
        ("hold-out", _holdout(frozen.holdout, frozen.holdout_absent)),
    ]
    if frozen.band is not None:
        facts.append(
            ("loss curve", f"band from the curves of {len(frozen.band['runs'])} runs of the evidence")
        )
    else:
        facts.append(("loss curve", f"no band: {frozen.band_absent}"))
    if frozen.override is not None:
        facts.append(("overridden", frozen.override))
    state = "not frozen" if planned.not_frozen else f"frozen as {frozen.digest[:12]}"
    return [
        Heading(f"Forecast ({planned.best.kind} {multiple(frozen.reach)}{_doubt(planned)}), {state}"),
        Facts(facts),
    ]


def _holdout(holdout: dict | None, absent: str | None) -> str:
    if holdout is None:
        return f"none: {absent}"
    passed = "passed" if holdout["passed"] else "failed"
    return f"{passed}: error {holdout['error']:.2%} at {multiple(holdout['fold'])} the compute of the fit"


def _verdict(planned: PlanResult) -> list[Block]:
    if planned.forecast is None or planned.best is None:
        return []
    reasons = planned.reasons or ("nothing in the evidence contradicts it",)
    return [
        Paragraph(Strong(f"Verdict: {planned.best.grade}")),
        Bullets(reasons),
        *(
            [Bullets([f"warning: {w}" for w in planned.forecast.warnings])]
            if planned.forecast.warnings
            else []
        ),
    ]


def _provenance(planned: PlanResult) -> list[Block]:
    frozen = planned.forecast
    is_frozen = not planned.not_frozen
    facts: list[tuple[str, Content]] = [
        ("evidence", [f"{planned.source.where}, runs digest ", Code(frozen.evidence["digest"][:12])]),
        ("forecast", [Code(frozen.digest), f", frozen {frozen.created}"] if is_frozen else "not frozen"),
        ("corpus", Code(frozen.data_digest) if frozen.data_digest else "unknown"),
        ("run", Code(planned.plan.spec.id) if planned.plan.spec else "none: no recipe"),
        *((key, str(value)) for key, value in frozen.code.items()),
    ]
    return [
        Heading("Provenance", detail=True),
        Facts(facts, detail=True),
        Paragraph(
            [
                "Every number in full: ",
                Link("plan.json", "plan.json"),
                ".",
                *(
                    [
                        " The forecast as it was frozen: ",
                        Link("forecast.json", "forecast.json"),
                        "; ",
                        Code("scalelab launch"),
                        " refuses it if a byte has changed.",
                    ]
                    if is_frozen
                    else []
                ),
            ],
            detail=True,
        ),
    ]


def _doubt(planned: PlanResult) -> str:
    return "; do not rely" if planned.is_doubtful else ""


def _sentence(text: str) -> str:
    """Text with a capital at its beginning and a full stop at its end."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."
