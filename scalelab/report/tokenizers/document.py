"""Tokenizers side by side as a Document: bytes per token by domain, splits of numbers and code, perplexity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from scalelab.data.tokenizers.comparison import CODE, NUMBERS, NumberSplit, TokenizerScore
from scalelab.report.document import (
    Block,
    Code,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Number,
    Paragraph,
    Table,
)
from scalelab.units import si

WARNING = (
    "Perplexity per token cannot be compared between tokenizers: each predicts other tokens. Compare bits per byte, "
    "which are of the same text."
)
MODEL = (
    "Model: a bigram with Witten-Bell smoothing, counted on four fifths of the documents and scored on the others, "
    "the same for every tokenizer. It ranks tokenizers for itself; a trained model may rank them otherwise."
)


@dataclass(frozen=True)
class TrainedLoss:
    """Validation loss of a trained run."""

    run: str
    n_params: int
    loss: float
    """Nats per token."""
    bpb: float
    """Bits per byte."""


def tokenizer_document(
    scores: Mapping[str, TokenizerScore],
    source: str,
    trained: Mapping[str, TrainedLoss],
    provenance: Mapping[str, str] | None = None,
    figures: Sequence[Figure] = (),
) -> Document:
    """Return the comparison.

    Args:
        scores: By the names that they are reported under; all on the same text.
        source: Description of the text.
        trained: Best trained run of sweeps with these tokenizers, by the same names.
        provenance: Version and commit of the code, for the page.
        figures: Figures of bytes per token that were drawn, with captions.
    """
    names = list(scores)
    first = next(iter(scores.values()))
    blocks: list[Block] = [
        Facts(
            [
                ("text", source),
                (
                    "bytes",
                    Number(
                        f"{si(first.total.n_bytes)}, {si(first.total.held_out_bytes)} held out", "measured"
                    ),
                ),
                *((name, f"{score.name}, {score.vocab_size:,} tokens") for name, score in scores.items()),
            ]
        ),
        Heading("Perplexity of held-out text"),
        Table(
            ["tokenizer", "per token", "per byte", "bits per byte", "held-out tokens"],
            [[name, *_perplexity(score)] for name, score in scores.items()],
            caption="Measured.",
        ),
        Paragraph(WARNING),
    ]
    if (note := _disagreement(scores)) is not None:
        blocks.append(Paragraph(note))
    blocks += [
        Paragraph(MODEL, detail=True),
        *_trained(trained),
        Heading("Bytes per token by domain"),
        Table(
            ["domain", "bytes", *names],
            [
                [
                    domain,
                    si(first.domains[domain].n_bytes),
                    *(
                        Number(f"{s.domains[domain].bytes_per_token:.3f}", "measured")
                        for s in scores.values()
                    ),
                ]
                for domain in first.domains
            ]
            + [
                ["all", si(first.total.n_bytes), *(f"{s.total.bytes_per_token:.3f}" for s in scores.values())]
            ],
            caption="UTF-8 bytes of the text over its tokens, one end of a document counted for each. Measured.",
        ),
        *figures,
        Heading("Bits per byte by domain", detail=True),
        Table(
            ["domain", *names],
            [
                [domain, *(_or_dash(s.domains[domain].bits_per_byte, "{:.3f}") for s in scores.values())]
                for domain in first.domains
            ],
            caption="Held-out documents. Measured.",
            detail=True,
        ),
        Heading("Numbers"),
        Table(
            ["digits", *names],
            [
                [str(one.digits), *(_split(s.numbers[i]) for s in scores.values())]
                for i, one in enumerate(first.numbers)
            ],
            caption="Tokens of a whole number on average, and the digits of the commonest split with its share.",
        ),
        *_pieces("Numbers, token by token", NUMBERS, scores),
        *_pieces("Code, token by token", CODE, scores),
    ]
    if provenance is not None:
        blocks.append(Facts(list(provenance.items()), detail=True))
    return Document(f"Tokenizers: {' and '.join(names)}", blocks)


def _perplexity(score: TokenizerScore) -> list[Content]:
    total = score.total
    return [
        _or_dash(total.perplexity_per_token, "{:.4g}"),
        _or_dash(total.perplexity_per_byte, "{:.4f}"),
        _or_dash(total.bits_per_byte, "{:.4f}"),
        f"{total.held_out_tokens:,}",
    ]


def _trained(trained: Mapping[str, TrainedLoss]) -> list[Block]:
    if not trained:
        return []
    rows = [
        [name, Code(one.run), si(one.n_params), f"{one.loss:.4f}", f"{exp(one.loss):.4g}", f"{one.bpb:.4f}"]
        for name, one in trained.items()
    ]
    return [
        Heading("Trained runs"),
        Table(
            ["tokenizer", "run", "parameters", "nats per token", "perplexity", "bits per byte"],
            rows,
            align="llrrrr",
            caption="The run of each sweep with the lowest validation loss, on its own validation text. Measured.",
        ),
    ]


def _disagreement(scores: Mapping[str, TokenizerScore]) -> str | None:
    """Say so where perplexity per token ranks two tokenizers against their bits per byte."""
    known = {
        name: (score.total.perplexity_per_token, score.total.bits_per_byte)
        for name, score in scores.items()
        if score.total.perplexity_per_token is not None and score.total.bits_per_byte is not None
    }
    for one, (ppl, bits) in known.items():
        for other, (other_ppl, other_bits) in known.items():
            if ppl < other_ppl and bits > other_bits:
                return (
                    f"Here the two disagree: {one} has the lower perplexity per token ({ppl:.4g} against "
                    f"{other_ppl:.4g}), {other} needs fewer bits per byte ({other_bits:.4f} against {bits:.4f})."
                )
    return None


def _split(split: NumberSplit) -> str:
    return f"{split.mean_tokens:.2f}  ({split.pattern}: {split.pattern_share:.0%})"


def _pieces(title: str, texts: tuple[str, ...], scores: Mapping[str, TokenizerScore]) -> list[Block]:
    rows: list[list[Content]] = []
    for text in texts:
        for i, (name, score) in enumerate(scores.items()):
            parts = score.pieces[text]
            rows.append(
                [
                    "" if i else Code(_visible(text)),
                    name,
                    str(len(parts)),
                    Code(" ".join(map(_visible, parts))),
                ]
            )
    table = Table(["text", "tokenizer", "tokens", "split"], rows, align="llrl", detail=True)
    return [Heading(title, detail=True), table]


def _visible(text: str) -> str:
    """Return a text with its spaces, tabs and line ends shown."""
    return text.replace(" ", "\u00b7").replace("\t", "\u2192").replace("\n", "\u21b5")


def _or_dash(value: float | None, form: str) -> Content:
    return "-" if value is None else Number(form.format(value), "measured")
