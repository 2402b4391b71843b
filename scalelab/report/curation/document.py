"""A curation as one Document: what each stage kept, clusters of copies, samples, languages, domains.

Documents and bytes are measured. Tokens are estimated from a sample of each stage's documents, and so
extrapolated.

Not here: the numbers (data/curate), the figure (plots.py), the files (page.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scalelab.data.curate.pipeline import CurationResult, StageReport
from scalelab.data.curate.store import ShownDocument, Tally
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Number,
    Paragraph,
    Strong,
    Table,
)
from scalelab.units import si

NONE = "-"
SHOWN_REASONS = 12
"""Reasons of a stage that are listed."""
SHOWN_DOMAINS = 20
SHOWN_LICENCES = 4
SHOWN_REJECTED = 12
"""Rejected documents of a stage that are shown, spread over its reasons."""


def curation_document(
    result: CurationResult,
    *,
    tokens: Sequence[float | None] | None = None,
    figures: Sequence[Figure] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Document:
    """Return everything that is reported of a curation.

    Args:
        result: The curation.
        tokens: Tokens of what each stage kept, estimated; None: not estimated.
        figures: Figures that were drawn, with captions.
        provenance: What the numbers came from, such as the commit.
    """
    config, reports = result.config, result.reports
    blocks: list[Block] = []
    if config.question:
        blocks.append(Paragraph(config.question, detail=True))
    if result.is_sample:
        blocks.append(Paragraph([Strong("A sample of the pages only."), " Nothing was written."]))
    blocks += [retention_table(reports, tokens), *figures]
    blocks += _holdouts(reports)
    blocks += _source(result)
    for report in reports:
        blocks += _stage(report)
    blocks += _languages_and_domains(reports)
    if provenance is not None:
        blocks += [
            Heading("Where it came from", detail=True),
            Facts([("source of pages", result.fingerprint[:16])], detail=True),
            Facts([(key, str(value)) for key, value in provenance.items()], detail=True),
            Facts([(f"key of {report.kind}", report.key) for report in reports], detail=True),
        ]
    return Document(f"Curation {config.name}", blocks)


def retention_table(reports: Sequence[StageReport], tokens: Sequence[float | None] | None) -> Table:
    """Return documents, bytes and tokens behind each stage.

    Args:
        reports: What each stage did.
        tokens: Tokens behind each stage; None: not estimated, and no column of the table.
    """
    first = reports[0]
    rows: list[list[Content]] = [
        ["pages read", f"{first.n_in:,}", NONE, _mb(first.bytes_in), "1,000", NONE, NONE]
    ]
    for i, report in enumerate(reports):
        n_tokens = tokens[i] if tokens is not None else None
        per_gb = 1000 * report.bytes_out / first.bytes_in if first.bytes_in else 0.0
        speed = report.bytes_in / 1e6 / report.cpu_s if report.cpu_s else None
        rows.append(
            [
                report.kind,
                f"{report.n_out:,}",
                f"{report.n_out / report.n_in:.1%}" if report.n_in else NONE,
                _mb(report.bytes_out),
                f"{per_gb:,.0f}" if per_gb >= 10 else f"{per_gb:.3g}",
                NONE if n_tokens is None else Number(si(n_tokens), "extrapolated"),
                NONE if speed is None else f"{speed:,.3g}",
            ]
        )
    columns = ["behind the stage", "documents", "kept", "MB", "MB per GB read", "tokens", "MB per CPU s"]
    caption = "Documents and bytes measured; tokens extrapolated from a sample of each stage's documents."
    if tokens is None:
        caption = "Documents and bytes measured."
        columns, rows = _without_tokens(columns), [_without_tokens(row) for row in rows]
    return Table(columns, rows, caption=caption, optional=("MB per CPU s", "kept"))


def _without_tokens(row: list[Any]) -> list[Any]:
    return [*row[:5], *row[6:]]


def _holdouts(reports: Sequence[StageReport]) -> list[Block]:
    rows = [[name, f"{n:,}", _mb(size)] for report in reports for name, (n, size) in report.holdouts.items()]
    return [Table(["hold-out", "documents", "MB"], rows)] if rows else []


def _source(result: CurationResult) -> list[Block]:
    packages = result.source_facts.get("packages")
    if not packages:
        return []
    rows = [
        [
            each["package"],
            each["version"],
            f"{each['n_pages']:,}",
            _mb(each["n_bytes"]),
            _licences(each["licences"]),
        ]
        for each in packages
    ]
    return [
        Heading("Packages and their licences", detail=True),
        Paragraph(
            "Read from the copyright file of each package. Nothing is redistributed: this machine fetched the text.",
            detail=True,
        ),
        Table(["package", "version", "pages", "MB", "licences"], rows, align="llrrl", detail=True),
    ]


def _licences(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_LICENCES
    shown = ", ".join(names[:SHOWN_LICENCES]) + (f" and {more} more" if more > 0 else "")
    return shown or "not stated: see its copyright file"


def _stage(report: StageReport) -> list[Block]:
    blocks: list[Block] = [Heading(f"Stage {report.kind}", detail=True)]
    settings = [row for key, value in report.settings.items() for row in _setting(key, value)]
    if settings:
        blocks.append(Facts(settings, detail=True))
    if report.reasons:
        most = sorted(report.reasons.items(), key=lambda item: (-item[1][0], item[0]))
        rows = [[reason, f"{n:,}", _mb(size)] for reason, (n, size) in most[:SHOWN_REASONS]]
        if others := most[SHOWN_REASONS:]:
            n, size = sum(o[1][0] for o in others), sum(o[1][1] for o in others)
            rows.append([f"{len(others)} more reasons", f"{n:,}", _mb(size)])
        blocks.append(Table(["rejected because", "documents", "MB"], rows, detail=True))
    found: list[tuple[str, Content]] = [(name, f"{n:,}") for name, n in report.counts.items()]
    if report.n_changed:
        found.append(("documents changed", f"{report.n_changed:,}"))
    found += [(key, _value(value)) for key, value in report.shown.items() if key != "clusters"]
    if found:
        blocks.append(Facts(found, detail=True))
    blocks += _clusters(report)
    for title, samples in (("Changed", report.changed_samples), ("Kept", report.kept_samples)):
        if samples and (title == "Kept" or report.n_changed):
            blocks += [Heading(title, 3, detail=True), Bullets([_sample(s) for s in samples], detail=True)]
    if report.rejected_samples:
        most = sorted(report.reasons, key=lambda reason: (-report.reasons[reason][0], reason))[:SHOWN_REASONS]
        each = max(1, SHOWN_REJECTED // len(most))
        items = [
            _sample(s, reason) for reason in most for s in report.rejected_samples.get(reason, [])[:each]
        ]
        blocks += [Heading("Rejected", 3, detail=True), Bullets(items, detail=True)]
    return blocks


def _clusters(report: StageReport) -> list[Block]:
    clusters = report.shown.get("clusters")
    if not clusters:
        return []
    rows = [
        [str(i), f"{each['documents']:,}", _mb(each["bytes"]), Code(joined_names(each["examples"]))]
        for i, each in enumerate(clusters, 1)
    ]
    return [
        Heading("Largest clusters of copies", 3, detail=True),
        Table(["", "documents", "MB", "such as"], rows, align="rrrl", detail=True),
    ]


def joined_names(names: Sequence[str]) -> str:
    """Return names that begin and end alike as one, such as manual/{de,en}/a.html; other names one after another."""
    parts = [name.split("/") for name in names]
    least = min(map(len, parts)) - 1
    first = next((i for i in range(least) if len({each[i] for each in parts}) > 1), least)
    last = next((i for i in range(least - first) if len({each[-1 - i] for each in parts}) > 1), least - first)
    if len(names) < 2 or not first + last:
        return "; ".join(names)
    inner = ", ".join("/".join(each[first : len(each) - last]) for each in parts)
    return "/".join([*parts[0][:first], f"{{{inner}}}", *parts[0][len(parts[0]) - last :]])


def _languages_and_domains(reports: Sequence[StageReport]) -> list[Block]:
    blocks: list[Block] = []
    found = next((r for r in reports if r.kind == "language"), None)
    if found is not None:
        kept = {name: tally for name, tally in found.languages.items()}
        rejected = {
            reason.removeprefix("language "): tally
            for reason, tally in found.reasons.items()
            if reason.startswith("language ")
        }
        both: Tally = {**rejected, **kept}
        rows = [
            [name, f"{n:,}", _mb(size), "kept" if name in kept else "rejected"]
            for name, (n, size) in sorted(both.items(), key=lambda item: (-item[1][0], item[0]))[
                :SHOWN_DOMAINS
            ]
        ]
        columns = ["language", "documents", "MB", ""]
        blocks += [Heading("Languages", detail=True), Table(columns, rows, align="lrrl", detail=True)]
    at = next((i for i, report in enumerate(reports) if report.kind == "domains"), len(reports))
    blocks += _domains("Domains", reports[0].domains, reports[at - 1].domains, reports[at - 1].kind)
    if at < len(reports):
        blocks += _domains("Classes of text", reports[at].domains, reports[-1].domains, reports[-1].kind)
    return blocks


def _domains(title: str, before: Tally, after: Tally, stage: str) -> list[Block]:
    """Return documents and bytes of each domain at first, and behind a later stage."""
    first = "extracted" if title == "Domains" else "classified"
    names = sorted({*before, *after}, key=lambda n: (-after.get(n, (0, 0))[1], -before.get(n, (0, 0))[1], n))
    total = sum(size for _, size in after.values())
    rows: list[list[Content]] = []
    for name in names[:SHOWN_DOMAINS]:
        (n0, size0), (n1, size1) = before.get(name, (0, 0)), after.get(name, (0, 0))
        share = f"{size1 / total:.1%}" if total else NONE
        rows.append([name, f"{n0:,}", _mb(size0), f"{n1:,}", _mb(size1), share])
    columns = ["domain", first, "MB", "left", "MB left", "share of what is left"]
    caption = f"Documents and bytes; left: behind the stage {stage}."
    return [Heading(title, detail=True), Table(columns, rows, caption=caption, detail=True)]


def _setting(name: str, value: Any) -> list[tuple[str, Content]]:
    """Return the rows of one setting: of a mapping of mappings, one for each."""
    if value is None or value in ([], {}):
        return []
    if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
        return [(f"{name}: {key}", _value(inner)) for key, inner in value.items()]
    return [(name, _value(value))]


def _sample(sample: ShownDocument, reason: str = "") -> Content:
    why = f" {reason}{f' ({sample.detail})' if sample.detail else ''}:" if reason else ":"
    return [Code(sample.name), why, " ", sample.text or "(no text)"]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _mb(size: float) -> str:
    mb = size / 1e6
    if mb >= 1000 or not mb:
        return f"{mb:,.0f}"
    return f"{mb:.3g}" if mb >= 0.1 else f"{mb:.3f}" if mb >= 0.001 else "<.001"
