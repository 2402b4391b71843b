"""A sweep as a Document: its plan before it starts, and what came of its runs."""

from scalelab.launch.sweep import SweepPlan, SweepResult
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.trunk_jobs import flops_left, flops_planned, trunks_of
from scalelab.launch.trunk_validation import seed_sd, validations
from scalelab.report.document import Block, Bullets, Code, Document, Facts, Heading, Paragraph, Strong, Table
from scalelab.train.spec import RunResult
from scalelab.train.spent import spent
from scalelab.units import duration, sci, si


def plan_document(plan: SweepPlan) -> Document:
    """Return the plan of a sweep: one row a run, then totals, and time and cost where they are known."""
    file = plan.file
    blocks: list[Block] = [
        Facts(
            [
                ("question", " ".join(file.question.split())),
                ("prediction", " ".join(file.prediction.split())),
                ("recipe", file.recipe.describe()),
            ]
        ),
        Heading("Runs"),
        _runs(plan),
    ]
    recipe = file.recipe
    if notes := recipe.rule_notes(
        recipe.scale(w.proposal.spec.model, w.proposal.spec.n_tokens) for w in plan.work
    ):
        blocks += [Heading("Rules"), Bullets(notes)]
    if file.design.adaptive:
        blocks.append(Paragraph("The design adds runs when it has seen the results of these."))
    todo = [w for w in plan.work if w.state != "done"]
    blocks.append(
        Paragraph(
            f"{len(plan.work)} runs, {sci(flops_planned(plan.work))} FLOPs planned; "
            f"{len(plan.work) - len(todo)} done already; {len(todo)} to train, {sci(flops_left(plan.work))} FLOPs."
        )
    )
    if trunks := trunks_of(plan.work):
        separate = sum(w.proposal.flops for w in plan.work)
        blocks.append(
            Paragraph(
                f"{len(trunks)} trunks are shared by {sum(len(t.branches) for t in trunks)} runs: "
                f"{flops_planned(plan.work) / separate:.0%} of the {sci(separate)} FLOPs of the same runs trained "
                "separately."
            )
        )
    if plan.timing is not None or _seconds(todo):
        blocks += _time(plan, todo)
    if plan.n_train is None:
        blocks.append(
            Paragraph(
                [
                    "The corpus is not prepared, so its tokens are not counted. Prepare it: ",
                    Code("scalelab data FILE.yaml"),
                ]
            )
        )
    return Document(f"Sweep {file.name}", blocks)


def timing_document(plan: SweepPlan) -> Document:
    """Return the time of a plan that was timed: one row a budget, then total and cost."""
    todo = [w for w in plan.work if w.state != "done"]
    budgets: dict[float | None, list[PlannedJob]] = {}
    for w in todo:
        budgets.setdefault(w.proposal.flops_planned, []).append(w)
    rows = [
        [
            "-" if budget is None else sci(budget),
            f"{len(work)}",
            duration(max(_seconds(work))),
            duration(sum(_seconds(work))),
        ]
        for budget, work in budgets.items()
        if _seconds(work)
    ]
    table = Table(["budget", "runs", "longest", "together"], rows, align="rrrr")
    return Document("Time", [*([table] if rows else []), *_time(plan, todo)])


def _seconds(work: list[PlannedJob]) -> list[float]:
    return [w.seconds for w in work if w.seconds is not None]


def _runs(plan: SweepPlan) -> Table:
    is_timed = bool(_seconds(list(plan.work)))
    seq_len, count = plan.file.recipe.seq_len, plan.file.recipe.param_count
    rows = []
    for w in plan.work:
        spec, p = w.proposal.spec, w.proposal
        n = spec.model.size(seq_len).count(count)
        rows.append(
            [
                "-" if p.flops_planned is None else sci(p.flops_planned),
                si(n),
                si(p.n_params_planned),
                f"{spec.model.depth()}x{spec.model.width()}",
                si(spec.n_tokens),
                f"{spec.n_tokens / n:.1f}",
                f"{spec.batch_tokens}",
                f"{spec.n_steps}",
                sci(p.flops),
                "?" if plan.n_train is None else f"{spec.n_tokens / plan.n_train:.2f}",
                f"{spec.seed}",
                *(["-" if w.state == "done" else duration(w.seconds)] if is_timed else []),
                w.state,
            ]
        )
    return Table(
        [
            "budget",
            "N",
            "N planned",
            "shape",
            "D",
            "D/N",
            "batch",
            "steps",
            "FLOPs",
            "epochs",
            "seed",
            *(["time"] if is_timed else []),
            "state",
        ],
        rows,
        align="rrrrrrrrrrr" + "r" * is_timed + "l",
        optional=["N planned", "shape", "epochs", "batch", "seed", "steps"],
    )


def _time(plan: SweepPlan, todo: list[PlannedJob]) -> list[Block]:
    """Return the time and cost of the runs, and what was not timed."""
    blocks: list[Block] = [Paragraph(_time_text(plan, todo))]
    if plan.timing is not None and plan.timing.not_timed:
        count, seq_len = plan.file.recipe.param_count, plan.file.recipe.seq_len
        items = [
            f"{si(m.proposal.spec.model.size(seq_len).count(count))} parameters: {m.reason}"
            for m in plan.timing.not_timed
        ]
        extrapolated = ", so its time is that of the largest that was, at equal FLOPs per second"
        blocks += [Paragraph(f"Not timed{extrapolated if plan.timing.known else ''}:"), Bullets(items)]
    return blocks


def _time_text(plan: SweepPlan, todo: list[PlannedJob]) -> str:
    if not todo:
        return "Nothing to train."
    seconds = _seconds(todo)
    if plan.devices is None or len(seconds) < len(todo):
        return "Time: unknown, because nothing was timed."
    share = flops_left(plan.work) / sum(w.proposal.flops for w in todo)  # trunks are trained once
    wall = max(share * sum(seconds) / plan.devices.n_parallel, max(seconds))
    text = f"Time: about {duration(wall)}, estimated from a few timed steps on {plan.devices}"
    price = plan.file.launch.price_per_device_hour
    if price is not None:
        cost = wall / 3600 * plan.devices.n * price
        text += f"; cost about {cost:.2f} at {price} per device and hour"
    return text + "."


def result_document(result: SweepResult) -> Document:
    """Return what came of a sweep: totals, each run that did not finish and why, and the next command."""
    name = result.file.name
    results = result.results
    used, planned = spent(results).flops, flops_planned(result.work)
    blocks: list[Block] = [
        Paragraph(
            [
                Strong(name),
                f": {result.n_finished} of {len(result.work)} runs finished, "
                f"{sci(used)} FLOPs spent of {sci(planned)} planned.",
            ]
        )
    ]
    items = [
        f"{w.run_dir.run} {r.status}: {r.reason}"
        for w, r in zip(result.work, results, strict=True)
        if r is not None and r.status != "finished"
    ]
    for job in result.lost:
        trace = f" (traceback: {job.job.dir.path / 'traceback.txt'})" if job.outcome == "error" else ""
        items.append(f"{job.job.id} failed ({job.outcome}): {job.reason}{trace}")
    if items:
        blocks.append(Bullets(items))
    blocks += _validation(result, results)
    if result.behind is not None:
        blocks.append(Paragraph(result.behind))
    if result.interrupted:
        blocks.append(Paragraph("Interrupted. Run the same command to resume."))
    elif result.lost:
        blocks.append(Paragraph("Run the same command to try them again."))
    elif result.is_fittable:
        blocks.append(Paragraph(["Next: ", Code(f"scalelab fit {name}")]))
    return Document(f"Sweep {name}", blocks)


def _validation(result: SweepResult, results: list[RunResult | None]) -> list[Block]:
    """Return branches beside the separate runs that validate them, one row a pair; nothing without any."""
    pairs = validations(result.work, results)
    if not pairs:
        return []
    noise = seed_sd(result.work, results)
    rows = [
        [
            si(pair.spec.model.size(pair.spec.seq_len).count(result.file.recipe.param_count)),
            si(pair.spec.n_tokens),
            f"{pair.branch:.4f}",
            f"{pair.separate:.4f}",
            f"{pair.difference:+.4f}",
            "-" if noise is None else f"{pair.difference / noise[0]:+.2f}",
        ]
        for pair in pairs
    ]
    words = (
        "No two runs of the sweep differ in their seed alone, so the differences cannot be compared with seed "
        "noise: set design.replicates, or seeds of a ladder."
        if noise is None
        else f"Seed standard deviation: {noise[0]:.4f} nats, {noise[1]} degrees of freedom."
    )
    mean = sum(pair.difference for pair in pairs) / len(pairs)
    return [
        Heading("Branches beside separate runs"),
        Table(["N", "D", "branch", "separate", "difference", "seed sds"], rows, align="rrrrrr"),
        Paragraph(f"Losses in nats per token, measured; mean difference {mean:+.4f}. {words}"),
    ]
