"""The study of a table of mixtures: which runs each size is fitted to and judged by, and which are not used."""

import json
from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import FitError, ScalelabError
from scalelab.laws.mixture.recommendation import MixtureRequest, epochs_cap
from scalelab.records.mixture_runs import size_names
from scalelab.records.mixture_table import MixtureTable, read_mixture_table
from scalelab.report.mixture.document import mixture_document
from scalelab.report.mixture.page import write_mixture_report
from scalelab.report.mixture.plots import shares_plot
from scalelab.report.render.terminal import render_terminal
from scalelab.study.mixture import study_mixture
from scalelab.testing.figures import check_figure
from scalelab.testing.mixture_laws import planted

REQUEST = MixtureRequest(replicates=0)
N = 12


def table(sizes, held_out=(), n_tokens=np.nan):
    """A table with the same N planted runs at each size.

    Args:
        sizes: Their names.
        held_out: (size, number of the run) of those that are held out.
        n_tokens: Of each run.
    """
    runs = planted(n=N, noise=0.001)
    names = [(size, i) for size in sizes for i in range(N)]
    return MixtureTable(
        source="table.csv",
        domains=runs.domains,
        targets=runs.targets,
        weights=np.tile(runs.weights, (len(sizes), 1)),
        losses=np.tile(runs.losses, (len(sizes), 1)),
        sizes=tuple(size for size, _ in names),
        is_held_out=np.array([name in set(held_out) for name in names]),
        n_tokens=np.broadcast_to(n_tokens, len(names)),
        names=tuple(f"{size}-{i}" for size, i in names),
    )


def test_a_size_that_is_all_held_out_is_named_and_errors_say_what_they_are_on():
    held_out = [("30M", i) for i in range(N)] + [("10M", 0), ("10M", 1)]

    study = study_mixture(table(["3M", "10M", "30M"], held_out), REQUEST)

    assert list(study.sizes) == ["3M", "10M"]
    assert study.left_out == ("30M: all 12 runs are held out, so none is left to fit",)
    assert study.to_json()["errors_on"] == {"3M": "mixtures left out one by one", "10M": "held-out mixtures"}
    text = render_terminal(mixture_document(study, "table"))
    assert "left out: 30M" in text
    assert "mixtures left out one by one" in text


def test_a_table_of_which_every_run_is_held_out_is_refused():
    with pytest.raises(FitError, match="every run of the table is held out"):
        study_mixture(table(["3M"], [("3M", i) for i in range(N)]), REQUEST)


def test_runs_of_one_size_with_different_training_tokens_are_refused():
    same = study_mixture(table(["3M", "10M"], n_tokens=np.repeat([1e6, 4e6], N)), REQUEST)
    assert same.left_out == ()

    with pytest.raises(FitError, match=r"3M-0 1,000,000, 3M-11 2,000,000") as error:
        study_mixture(table(["3M"], n_tokens=np.repeat([1e6, 2e6], [N - 1, 1])), REQUEST)
    assert "column group" in error.value.fix


def test_a_mixture_that_another_size_cannot_judge_is_named_and_the_rest_stands():
    """At 10M one domain is capped at a tenth of its share, and at 3M the shares of the others hardly vary."""
    both = table(["3M", "10M"], n_tokens=np.repeat([1e5, 1e6], N))
    near = both.weights.copy()
    near[:N] = near[:N].mean(axis=0) + 0.1 * (near[:N] - near[:N].mean(axis=0))
    top = int(np.argmax(near[0]))
    request = replace(REQUEST, unique_tokens={both.domains[top]: 0.1 * near[0, top] * 1e6 / epochs_cap()})

    study = study_mixture(replace(both, weights=near), request)

    assert set(study.recommendations) == {"3M", "10M"}
    assert study.transfers == ()
    assert all("the domains have tokens for" in why for why in study.left_out)
    assert [why.split(":")[0] for why in study.left_out] == [
        "the mixture of 3M at 10M",
        "the mixture of 10M at 3M",
    ]


def test_without_replicates_there_are_no_intervals_and_no_verdict(tmp_path):
    first = table(["3M", "10M"], n_tokens=1e6)
    request = replace(REQUEST, replicates=0, unique_tokens={first.domains[0]: 0.0})
    study = study_mixture(first, request)
    found = study.recommendations["10M"]
    text = " ".join(render_terminal(mixture_document(study, "table")).split())

    page = write_mixture_report(study, "table", tmp_path)
    record = json.loads((page.parent / "mixture.json").read_text())

    best = record["recommendations"]["10M"]
    assert (found.intervals, found.gain_interval, found.loss_interval, found.pays) == (
        None,
        None,
        None,
        False,
    )
    assert (best["gain_interval"], best["loss_interval"], best["pays"]) == (None, None, False)
    assert {share["interval"] for share in best["weights"].values()} == {None}
    assert best["epochs"] == {first.domains[0]: 0.0}
    assert "Without replicates nothing shows whether" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("n_params", "names"),
    [
        ((1_050_000, 1_050_000, 20_000_000), ("1.05M", "1.05M", "20M")),
        ((1_050_000, 1_052_000), ("1.05M", "1.052M")),
    ],
)
def test_different_sizes_have_different_names(n_params, names):
    assert size_names(n_params) == names


@pytest.mark.parametrize(
    ("rows", "problem", "place"),
    [
        ("", "the table has no rows", "runs.csv"),
        ("0.5,0.5,nan,3\n", "loss_a is empty or NaN", "runs.csv, line 2"),
        ("0.5,0.5,3,3\n0.5,0.9,3,3\n", "the shares sum to 1.4, not 1", "runs.csv, line 3"),
    ],
)
def test_a_table_that_does_not_hold_is_refused_with_its_file_and_line(tmp_path, rows, problem, place):
    path = tmp_path / "runs.csv"
    path.write_text("weight_a,weight_b,loss_a,loss_b\n" + rows)

    with pytest.raises(ScalelabError) as caught:
        study_mixture(read_mixture_table(path), REQUEST)

    assert caught.value.problem == problem
    assert caught.value.where.endswith(place)


def test_the_figure_draws_the_recommended_shares_of_the_largest_size():
    study = study_mixture(table(["3M", "10M"]), MixtureRequest(replicates=20))
    found = study.recommendations["10M"]

    data = shares_plot(study)
    axes = check_figure("mixture_shares", data).axes[0]

    assert dict(zip(data.domains, data.recommended, strict=True)) == pytest.approx(
        dict(zip(found.domains, found.weights, strict=True))
    )
    assert data.recommended == sorted(data.recommended, reverse=True)
    assert all(
        low <= share <= high for (low, high), share in zip(data.intervals, data.recommended, strict=True)
    )
    assert list(axes.get_lines()[0].get_xdata()) == data.recommended
    assert "Shares at 10M, 90% intervals" in axes.get_title(loc="left")
    bare = check_figure("mixture_shares", shares_plot(study_mixture(table(["3M"]), REQUEST)))
    assert "interval" not in bare.axes[0].get_title(loc="left")
