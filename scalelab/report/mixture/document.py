"""The study of mixtures as a Document: the recommended mixture first, then why it can be trusted."""

from collections.abc import Mapping, Sequence

from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.laws.mixture.recommendation import Recommendation, epochs_cap
from scalelab.report.document import (
    Block,
    Bullets,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Number,
    Paragraph,
    Table,
)
from scalelab.study.mixture import MixtureStudy

INTERVALS = (
    "Intervals hold the noise between runs, the choice of a mixture and the errors on mixtures that were left out of "
    "the fit; those of shares only the first two. analysis/mixture.md has how often they held under other laws."
)
PROXIES = (
    "Mixtures chosen by small models carry over less well: ranks of mixtures at 1M parameters correlate .73 with those "
    "of large models, at 15M .89 (literature, arXiv:2602.12237)."
)


def mixture_document(
    study: MixtureStudy,
    name: str,
    provenance: Mapping[str, str] | None = None,
    figures: Sequence[Figure] = (),
) -> Document:
    """Return the study.

    Args:
        study: The study.
        name: Name of the sweep or table.
        provenance: Version and commit of the code, for the page.
        figures: Figures that were drawn, with captions.
    """
    blocks: list[Block] = []
    size = study.largest
    found = study.recommendations[size]
    blocks += [Paragraph(_verdict(found, size, len(study.sizes) > 1)), *_shares(found, size), *figures]
    blocks += [Facts(_facts(found, study)), *_errors(study)]
    if study.transfers:
        rows = [
            [
                t.chosen_at,
                t.judged_at,
                "-" if t.rank_correlation is None else f"{t.rank_correlation:.3f}",
                f"{t.regret:.4f}",
                f"{t.gain:+.4f}",
            ]
            for t in study.transfers
        ]
        blocks += [
            Heading("At another size"),
            Table(
                ["chosen at", "judged at", "rank correlation", "regret", "gain"],
                rows,
                align="llrrr",
                caption="Regret and gain in nats per token by the law of the other size, fitted; rank correlation of "
                "the measured losses of mixtures that were trained at both.",
            ),
        ]
    blocks += [Paragraph(INTERVALS), Paragraph(PROXIES)]
    for other, one in study.recommendations.items():
        if other != size:
            blocks += _shares(one, other, detail=True)
    notes = [f"{other}: {why}" for other, why in study.refused.items()] + [
        f"left out: {why}" for why in study.left_out
    ]
    if notes:
        blocks.append(Bullets(notes))
    if provenance is not None:
        blocks.append(Facts(list(provenance.items()), detail=True))
    return Document(f"Mixture of {name}", blocks)


def _verdict(found: Recommendation, size: str, several: bool) -> Content:
    where = f" at {size}" if several else ""
    gain = Number(f"{found.gain:+.4f}{_ends(found.gain_interval, '+.4f')} nats per token", "fitted")
    if found.gain_interval is None:
        verdict = (
            "Without replicates nothing shows whether the recommended mixture is better than the natural one"
        )
    elif found.pays:
        verdict = "The recommended mixture is better than the natural one"
    else:
        verdict = "No mixture is shown to be better than the natural one"
    return [verdict, where, ": gain ", gain, "."]


def _ends(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def _shares(found: Recommendation, size: str, detail: bool = False) -> list[Block]:
    rows = [
        [
            domain,
            f"{natural:.1%}",
            Number(f"{w:.1%}", "fitted"),
            "-" if ends is None else f"[{ends[0]:.1%}, {ends[1]:.1%}]",
            f"{found.epochs[domain]:.2f}" if domain in found.epochs else "-",
            found.at_bound.get(domain, ""),
        ]
        for domain, w, ends, natural in zip(
            found.domains,
            found.weights,
            [None] * len(found.domains) if found.intervals is None else found.intervals,
            found.natural,
            strict=True,
        )
    ]
    level = f"{found.level:.0%} interval"
    return [
        Heading(f"Shares at {size}", detail=detail),
        Table(
            ["domain", "natural", "recommended", level, "epochs", "at a bound"],
            rows,
            align="lrrrrl",
            detail=detail,
        ),
    ]


def _facts(found: Recommendation, study: MixtureStudy) -> list[tuple[str, Content]]:
    worth, ends = study.request.worth, _ends(found.loss_interval, ".4f")
    return [
        ("loss", Number(f"{found.loss:.4f}{ends} nats per token", "fitted", labelled=True)),
        ("loss of the natural mixture", Number(f"{found.natural_loss:.4f}", "fitted", labelled=True)),
        (
            "best trained",
            Number(f"{found.best_trained_loss:.4f}, {found.best_trained}", "measured", labelled=True),
        ),
        (
            "mean of",
            "the targets with " + ("the given weights" if study.request.target_weights else "equal weights"),
        ),
        ("natural mixture", "as given" if study.request.natural else "mean of the trained mixtures"),
        (
            "repetition cap",
            f"{epochs_cap(worth):.2f} epochs: a repeated token is worth {worth:.0%} of a new one",
        ),
        (
            "intervals",
            f"bootstrap over mixtures, {found.replicates} replicates, {found.failed} without a law"
            if found.replicates
            else "none: no replicates were asked for",
        ),
        ("law", MIXTURE_LAWS[study.law].formula),
    ]


def _errors(study: MixtureStudy) -> list[Block]:
    laws = list(next(iter(study.errors.values())))
    rows = [
        [
            size,
            str(study.sizes[size].n_mixtures),
            study.errors_on[size],
            *("-" if off[law] is None else Number(f"{off[law]:.2%}", "measured") for law in laws),
        ]
        for size, off in study.errors.items()
    ]
    return [
        Heading("Errors of predicted losses"),
        Table(["size", "mixtures", "errors on", *laws], rows, caption="Mean of |predicted / measured - 1|."),
    ]
