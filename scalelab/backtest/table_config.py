"""The description of a table: where it comes from, how it is read, and what to know of it.

    hoffmann.yaml          title, family, file, sha256, source, licence, columns, conventions, caveats

Several descriptions may name one file: each takes the rows that its `rows` select.

Not here: reading the file (tables.py), which runs are forecast from which (cases.py).
"""

from typing import ClassVar

from pydantic import Field

from scalelab.config import Config, Count, Name, Positive


class HeldOutConfig(Config):
    """Rows that the publication itself held out; the rest forecasts them."""

    column: str
    """Column of the table that says so."""
    value: str
    """Its value in the rows held out."""


class TableConfig(Config):
    """One table of measured runs."""

    file_kind: ClassVar[str | None] = None

    name: Name
    """Name on the board."""
    title: str
    family: Name
    """Tables of one family share runs or authors: they count as one, and are left out together."""
    file: str
    """Name of the file in the directory of tables."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file, hexadecimal."""
    source: str
    """Where the file can be fetched."""
    papers: tuple[str, ...] = ()
    licence: str
    left_out: str | None = None
    """Why no forecast can be made from it; None: it is used."""
    columns: dict[str, str] = {}
    """Column of the file by our name: n_params, loss, and n_tokens or flops or both; n_tokens_unique."""
    rows: dict[str, str] = {}
    """Value of a column in the rows that are used; empty: all rows."""
    worst_left_out: int = Field(default=0, ge=0)
    """Rows of the highest loss that are left out, as the publication or its re-analysis did."""
    repeats: str = Field(default="first", pattern="^(first|best)$")
    """What stands for rows of equal size and tokens: the first of them, or the one of the lowest loss."""
    epochs: str = Field(default="all", pattern="^(all|one|repeated)$")
    """Which runs are used where unique tokens are known: all, those of one epoch, or all with repeated
    tokens counted as effective tokens, where runs of more than 1.2 epochs are forecast."""
    most_epochs: Positive | None = None
    """Epochs beyond which a run is left out; None: no limit."""
    budgets: tuple[Positive, ...] = ()
    """Published isoFLOP budgets, FLOPs; empty: found where the compute of runs agrees."""
    held_out: HeldOutConfig | None = None
    unit: str = "nats per token"
    """Unit of the loss."""
    conventions: tuple[str, ...] = ()
    """How N, D, C and the loss are counted."""
    caveats: tuple[str, ...] = ()
    expected_runs: Count | None = None
    """Runs that are left after all of this; None: not checked."""
