"""scalelab.fit_mixture: the numbers of the command, and what it refuses."""

import pytest

import scalelab
from scalelab.testing.mixture_laws import planted

DOMAINS = ("web", "code", "books", "math")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of planted runs in the working directory, with the losses of some targets."""
    monkeypatch.chdir(tmp_path)

    def make(targets=DOMAINS, columns=(), name="mixed.csv", n=14):
        runs = planted(n=n, noise=0.001)
        head = [f"weight_{d}" for d in DOMAINS] + [f"loss_{t}" for t in targets] + [c for c, _ in columns]
        lines = [",".join(head)]
        for weights, losses in zip(runs.weights, runs.losses, strict=True):
            cells = [*weights.tolist(), *losses[: len(targets)].tolist(), *(value for _, value in columns)]
            lines.append(",".join(map(repr, cells)))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return name

    return make


def test_the_mixture_is_that_of_the_command(table):
    found = scalelab.fit_mixture(table(), replicates=20)

    study = found.study.to_json()["recommendations"]["all"]["weights"]
    assert found.weights == pytest.approx({name: one["share"] for name, one in study.items()})
    frame = found.to_frame().loc["all"]
    assert list(frame.index) == list(DOMAINS)
    assert frame["share"].sum() == pytest.approx(1)
    assert (frame["low"] <= frame["share"]).all()
    assert "recommended" in str(found)
    assert "<table" in found._repr_html_()
    assert found.plot_shares().get_xlabel() == "share of the training text"
    assert found.write_report().read_text().startswith("# Mixture of mixed")


def test_the_natural_mixture_and_repetition_are_stated(table):
    natural = {"web": 0.4, "code": 0.3, "books": 0.2, "math": 0.1}
    found = scalelab.fit_mixture(
        table(), natural=natural, unique_tokens={"web": 1e6}, n_tokens=4e7, replicates=0
    )
    assert found.to_frame()["natural"].to_list() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found.weights["web"] <= 4.434 / 40 + 1e-3


def test_one_loss_of_a_domain_makes_a_table_of_mixtures(table):
    found = scalelab.fit_mixture(table(targets=("web",)), replicates=0)
    assert found.study.to_json()["targets"] == ["web"]
    with pytest.raises(scalelab.ScalelabError, match=r"holds runs on mixtures") as caught:
        scalelab.fit("mixed.csv")
    assert caught.value.fix == "call scalelab.fit_mixture('mixed.csv')"


def test_settings_of_an_optimizer_make_no_table_of_mixtures(table):
    from pathlib import Path

    from scalelab.records.mixture_table import is_mixture_table

    name = table(targets=("val",), columns=(("n_params", 1e6), ("n_tokens", 1e8)))
    assert not is_mixture_table(Path(name))
    assert is_mixture_table(Path(table(targets=("val",), columns=(("n_params", 1e6),))))
    assert not is_mixture_table(Path(table(targets=("val",), columns=(("loss", 3.0),))))


def test_mixture_is_no_law_among_others(table):
    with pytest.raises(scalelab.ScalelabError, match="fitted by themselves"):
        scalelab.fit(table(), laws="mixture")


@pytest.mark.parametrize(("source", "words"), [("nothing", "nothing"), ("nothing.csv", "nothing.csv")])
def test_what_is_not_there_is_refused(source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(scalelab.ScalelabError, match=words):
        scalelab.fit_mixture(source)
