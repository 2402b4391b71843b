"""What a stage does with examples that exceed the context of its model.

    refuse      raise an error that counts them (default)
    drop        leave them out
    truncate    cut off their end; leave out those without an answer in the context

Both are counted in the stage's result. A cut answer has no end token, so a model does not learn to stop there.

Source: TRL cuts the end of an example too (max_length, truncation_mode keep_start).
"""

from dataclasses import dataclass
from typing import Literal

from scalelab.errors import DataError

TooLong = Literal["refuse", "drop", "truncate"]


@dataclass(frozen=True)
class TooLongCounts:
    """Examples that exceeded the context and were not refused."""

    dropped: int = 0
    """Left out: all of them with `drop`, those without an answer in the context with `truncate`."""
    truncated: int = 0

    def metrics(self, what: str, too_long: TooLong) -> dict[str, int]:
        """Return the counts as metrics such as examples_dropped; none where such examples are refused."""
        if too_long == "refuse":
            return {}
        return {f"{what}_dropped": self.dropped, f"{what}_truncated": self.truncated}


def refuse_too_long(lengths: list[int], what: str, seq_len: int, where: str) -> None:
    """Refuse examples that exceed the context.

    Args:
        lengths: Tokens of each example; one more than the context fits.
        what: Examples in words ("conversations").
        seq_len: Context of the model, tokens.
        where: Source of the examples.

    Raises:
        DataError: There are some; it counts them and numbers the first five, from 1.
    """
    long = [i for i, n in enumerate(lengths, 1) if n > seq_len + 1]
    if long:
        numbers = ", ".join(map(str, long[:5])) + (" ..." if len(long) > 5 else "")
        raise DataError(
            f"{len(long)} of {len(lengths)} {what} exceed the context of {seq_len} tokens; "
            f"the longest has {max(lengths)}",
            where=f"{where}, {what} {numbers}",
            fix="set too_long: drop or too_long: truncate in the stage, shorten them, or start from a model "
            "with a longer context",
        )


def all_dropped(n: int, what: str, seq_len: int, where: str) -> DataError:
    """Return the error about examples of which none is left.

    Args:
        n: Examples that there were.
        what: Examples in words.
        seq_len: Context of the model, tokens.
        where: Source of the examples.
    """
    return DataError(
        f"none of {n} {what} has an answer within the context of {seq_len} tokens",
        where=where,
        fix="shorten them, or start from a model with a longer context",
    )
