"""The checks of a machine as a Document: one line a check, and how many are warnings and problems."""

from collections import Counter
from collections.abc import Sequence

from scalelab.hardware.doctor import CheckResult
from scalelab.report.document import Content, Document, Facts, Paragraph, Strong


def doctor_document(results: Sequence[CheckResult]) -> Document:
    """Return the findings in the order of the checks, with the fix of each that is not ok."""
    counts = Counter(result.finding.status for result in results)
    parts = [_counted(counts[status], status) for status in ("problem", "warning") if counts[status]]
    summary = ", ".join(parts) if parts else "No problems."
    if not counts["problem"] and parts:
        summary += "; no problems."
    return Document("Machine", [Facts([(r.name, _value(r)) for r in results]), Paragraph(summary)])


def _value(result: CheckResult) -> Content:
    found = result.finding
    if found.status == "ok":
        return f"ok: {found.value}"
    return [Strong(found.status), f": {found.value}. Fix: {found.fix}"]


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
