"""A report as data: headings, paragraphs, tables, numbers with their kind, and figures.

Each subject (a fit, a plan, an outcome, a post-training, an evaluation, a listing) builds one
Document. Renderers (report/render/) turn it into terminal text, Markdown or HTML. A subject never
pads, wraps or escapes text, and a renderer never decides what is reported.

    Document = title + blocks
    block    = Heading | Paragraph | Bullets | Facts | Table | Verbatim | Figure
    content  = str | Number | Strong | Code | Link | a sequence of these

A plain `str` is text, not markup: every renderer escapes it, so `N*`, a run's name or a cell of an
external table can never become Markdown, HTML or a terminal escape sequence.

Blocks with `detail=True` are for pages; the terminal leaves them out.

Not here: how anything looks (render/), the figures themselves (plots.py of each subject).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from scalelab.units import NUMBER_KINDS, NumberKind


@dataclass(frozen=True)
class Number:
    """A number as it is shown, and where it comes from."""

    text: str
    """With its unit where it stands alone: "3.07 nats per token"."""
    kind: NumberKind
    labelled: bool = False
    """Whether the kind is written behind it. Leave it out where a column or a heading names the kind."""

    def __post_init__(self) -> None:
        if self.kind not in NUMBER_KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(NUMBER_KINDS)}")


@dataclass(frozen=True)
class Strong:
    """Emphasised text."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command, a path, an identifier, a flag."""

    text: str


@dataclass(frozen=True)
class Link:
    """A file beside the page, or an address."""

    text: str
    target: str


Span = str | Number | Strong | Code | Link
Content = Span | Sequence[Span]


@dataclass(frozen=True)
class Heading:
    """A heading. Level 2 is a section of the document, 3 a part of a section."""

    text: str
    level: int = 2
    detail: bool = False


@dataclass(frozen=True)
class Paragraph:
    """Sentences, wrapped by the renderer."""

    content: Content
    detail: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[Content]
    detail: bool = False


@dataclass(frozen=True)
class Facts:
    """Labels and values, one pair a line."""

    rows: Sequence[tuple[str, Content]]
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """A table. Numbers are aligned right by `align`, one letter a column: l or r."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Content]]
    align: str = ""
    """Empty: the first column left, the others right."""
    caption: Content = ""
    detail: bool = False
    optional: Sequence[str] = ()
    """Columns that a narrow terminal leaves out, and says so, in this order."""

    def __post_init__(self) -> None:
        if unknown := set(self.optional) - set(self.columns):
            raise ValueError(f"optional columns {sorted(unknown)} are none of {list(self.columns)}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns: {row!r}")
        if self.align and (len(self.align) != len(self.columns) or set(self.align) - set("lr")):
            raise ValueError(f"align {self.align!r} does not fit {len(self.columns)} columns")

    @property
    def alignment(self) -> str:
        """One letter a column."""
        return self.align or "l" + "r" * (len(self.columns) - 1)


@dataclass(frozen=True)
class Verbatim:
    """Text that keeps its lines, such as a configuration file or an example command."""

    text: str
    language: str = "text"
    detail: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure beside the page: NAME.png and NAME.svg. Terminals name the file."""

    name: str
    caption: Content
    detail: bool = True


Block = Heading | Paragraph | Bullets | Facts | Table | Verbatim | Figure


@dataclass(frozen=True)
class Document:
    """A title and blocks in reading order."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    def summary(self) -> "Document":
        """Return the document without its details: what a terminal shows."""
        return replace(self, blocks=tuple(block for block in self.blocks if not block.detail))

    def __add__(self, blocks: Iterable[Block]) -> "Document":
        return replace(self, blocks=(*self.blocks, *blocks))


def spans(content: Content) -> Iterator[Span]:
    """Yield the parts of a content in order."""
    if isinstance(content, str | Number | Strong | Code | Link):
        yield content
    else:
        for part in content:
            yield from spans(part)


def plain(content: Content) -> str:
    """Return the content as text without markup, the kinds of labelled numbers included."""
    return "".join(
        f"{part.text} ({part.kind})"
        if isinstance(part, Number) and part.labelled
        else part
        if isinstance(part, str)
        else part.text
        for part in spans(content)
    )
