"""Sentences about hold-outs and windows that the terminal and the captions of figures share."""

from collections.abc import Iterable

from scalelab.study.study import Study


def simplified(study: Study, names: Iterable[str]) -> str:
    """Return how laws that are fitted many times differ from the forecast's; empty where none does.

    Args:
        study: The study.
        names: Laws that were fitted to parts of the runs.
    """
    differ = {name: study.fits[name].law.quick_differs for name in names if name in study.fits}
    return " ".join(
        f"Fitted to parts of the runs, {name} has a simpler form: {how}."
        for name, how in differ.items()
        if how
    )


def windowed(study: Study) -> str:
    """Return the same of the laws that were fitted to windows of the runs."""
    windows = [m.name for m in study.forecast.members if m.kind in ("choice", "window")]
    return simplified(study, [law for law in study.fits if any(n.startswith(f"{law}, ") for n in windows)])


def what_counts(study: Study) -> str:
    """Return what the verdict goes by in place of the reach to trust; empty where it goes by that."""
    f = study.forecast
    if f.expected_error is None:
        return ""
    return (
        f"The verdict on {f.law} does not go by this reach but by its calibrated error, about "
        f"{f.expected_error:.2%} of the loss at the target."
    )
