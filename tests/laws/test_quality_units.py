"""Units that the numbers give away: the certain refused with their flag, the unlikely questioned."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalelab.errors import ConfigError, DataError
from scalelab.laws.observations import Observations
from scalelab.records.runs import read_external
from scalelab.records.table_units import TableUnits
from scalelab.study.from_table import count_of_flops
from scalelab.study.quality.unit_checks import unit_findings
from scalelab.study.request import FitRequest, fit_evidence


@pytest.fixture
def table(family):
    """Seven sizes around the optimum of four budgets: 20M to 2B parameters."""
    runs = family(budgets=(1e18, 1e19, 1e20, 1e21), noise=0.002)
    return pd.DataFrame({"n_params": runs.N, "n_tokens": runs.D, "loss": runs.L, "flops": runs.C})


def seen(table, **units):
    return read_external(table, {}, (), None, units=TableUnits.parse(units)).evidence


def questions(evidence):
    """What is doubted; what was stated is only repeated."""
    return tuple(f for f in unit_findings(evidence, "exact") if f.code != "units stated")


def findings(table, **units):
    return questions(seen(table, **units))


def refusal(table, **units):
    with pytest.raises(DataError) as caught:
        findings(table, **units)
    return caught.value


def unit_of(text):
    """The flag that a fix names, as units."""
    line = text.split("--units ")[1].split()[0].rstrip(";,")
    return dict(pair.split("=") for pair in line.split(","))


def test_a_good_table_is_not_questioned(table):
    assert findings(table) == ()
    assert findings(table.drop(columns="flops")) == ()


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (1 / 3, "the forward pass alone, 2 N D"),
        (1 / 2, "multiply-accumulates (MACs), 3 N D"),
        (1 / 6, "multiply-accumulates (MACs) of the forward pass"),
        (2, "each multiply-accumulate counted twice"),
        (3, "tripled for a backward pass"),
        (4, "24 N D"),
        (1e-9, "the unit is GFLOPs"),
        (1e-12, "the unit is TFLOPs"),
        (1e-15, "the unit is PFLOPs"),
        (1 / 8.64e19, "the unit is PF-days"),
        (1e-9 / 3, "the unit is GFLOPs and the forward pass alone"),
        (5.7, "for no known reason"),
    ],
)
def test_flops_in_another_count_are_refused_and_the_flag_corrects_them(table, factor, cause):
    wrong = table.assign(flops=factor * table["flops"])

    error = refusal(wrong)

    assert f"flops is {factor:.3g} times 6 N D" in error.problem
    assert cause in error.problem
    assert "the column flops" in error.where
    corrected = seen(wrong, **unit_of(error.fix))
    assert corrected.table["flops"].to_numpy() == pytest.approx(table["flops"].to_numpy(), rel=1e-3)
    assert questions(corrected) == ()
    assert findings(wrong, flops="FLOPs") == ()  # taken at the reader's word


@pytest.mark.parametrize(
    ("factor", "cause"), [(4 / 3, "recomputation"), (2 / 3, "the backward pass"), (1.25, "no known reason")]
)
def test_flops_that_hardware_may_have_done_are_questioned(table, factor, cause):
    (found,) = findings(table.assign(flops=factor * table["flops"]))

    assert found.grave
    assert not found.disqualifying
    assert f"{factor:.3g} times 6 N D" in found.reason
    assert cause in found.reason


@pytest.mark.parametrize("head", [2e6, 2e7, 5e7])
def test_a_head_that_is_counted_is_no_other_unit(table, head):
    assert findings(table.assign(flops=table["flops"] * (1 + head / table["n_params"]))) == ()


def test_a_forward_pass_with_a_head_may_not_be_relied_on(table):
    (found,) = findings(table.assign(flops=table["flops"] / 3 * (1 + 2e7 / table["n_params"])))

    assert found.disqualifying
    assert "in the largest models: the forward pass alone" in found.reason


def test_flops_of_one_token_are_refused_and_converted(table):
    wrong = table.assign(flops=6 * table["n_params"])

    error = refusal(wrong)

    assert "FLOPs of one token" in error.problem
    assert unit_of(error.fix) == {"flops": "per-token"}
    assert seen(wrong, flops="per-token").table["flops"].to_numpy() == pytest.approx(
        table["flops"].to_numpy()
    )


def test_rows_in_another_unit_are_named(table):
    C = table["flops"].where(table.index != 7, table["flops"] / 1e9)

    error = refusal(table.assign(flops=C))

    assert "flops of 1 of 28 runs are in another unit than the others" in error.problem
    assert "(row 7)" in error.problem


def test_flops_are_not_looked_at_where_they_are_not_used(table):
    wrong = seen(table.assign(flops=table["flops"] / 3))

    assert unit_findings(wrong, "6ND") == ()
    assert fit_evidence(wrong, FitRequest(flop_count="6ND", replicates=0)).flop_count == "6ND"


def test_flops_equal_to_6nd_are_not_called_exact(table):
    assert count_of_flops(table) == "6ND"
    assert count_of_flops(table.assign(flops=table["flops"] * (1 + 1e-7))) == "6ND"
    assert count_of_flops(table.assign(flops=table["flops"] * (1 + 1e5 / table["n_params"]))) == "exact"
    assert fit_evidence(seen(table), FitRequest(replicates=0)).flop_count == "6ND"


@pytest.mark.parametrize("with_flops", [False, True])
@pytest.mark.parametrize(
    ("n", "d", "named"),
    [
        (1e6, 1e9, {"n_params": "M", "n_tokens": "B"}),
        (1e9, 1e9, {"n_params": "B", "n_tokens": "B"}),
        (1e6, 1, {"n_params": "M"}),
        (1, 1e9, {"n_tokens": "B"}),
        (1, 1e6, {"n_tokens": "M"}),
        (1e9, 1e12, {"n_params": "B", "n_tokens": "T"}),
    ],
)
def test_sizes_in_another_unit_are_refused_and_the_flag_corrects_them(table, n, d, named, with_flops):
    wrong = table.assign(n_params=table["n_params"] / n, n_tokens=table["n_tokens"] / d)
    wrong = wrong if with_flops else wrong.drop(columns="flops")

    error = refusal(wrong)

    assert "which no language model has" in error.problem
    assert unit_of(error.fix) == named
    right = seen(wrong, **named)
    assert right.table["n_params"].to_numpy() == pytest.approx(table["n_params"].to_numpy())
    assert right.table["n_tokens"].to_numpy() == pytest.approx(table["n_tokens"].to_numpy())
    assert questions(right) == ()
    assert findings(wrong.drop(columns="flops", errors="ignore"), n_params=1, n_tokens=1) == ()


def test_very_small_models_are_questioned_and_not_refused(table):
    (found,) = findings(
        table.drop(columns="flops").assign(n_params=table["n_params"] / 3e5, n_tokens=table["n_tokens"] / 1e4)
    )

    assert found.disqualifying
    assert "is the unit right?" in found.reason


def test_perplexity_is_refused_and_converted(table):
    wrong = table.assign(loss=np.exp(table["loss"]))

    error = refusal(wrong)

    assert "above the 12.5 nats per token of guessing" in error.problem
    assert "--units loss=perplexity" in error.fix
    assert seen(wrong, loss="perplexity").table["loss"].to_numpy() == pytest.approx(table["loss"].to_numpy())


def test_sizes_that_go_on_below_those_of_language_models_are_one_unit():
    N = np.geomspace(500, 1e5, 12)
    table = pd.DataFrame({"n_params": N, "n_tokens": 1e6 * np.ones(12), "loss": 4 - 0.1 * np.log(N)})

    assert "n_params" not in [f.code for f in findings(table, loss="nats")]  # and nothing is refused


def test_a_simulated_loss_has_the_unit_of_its_law(table):
    assert findings(table.assign(loss=40 * table["loss"], status="simulated")) == ()


def test_the_vocabulary_says_what_guessing_costs(table):
    bits = table.assign(loss=(table["loss"] + 2.5) / np.log(2), vocab_size=256)

    assert "above the 5.55 nats per token of guessing among 256 tokens" in refusal(bits).problem
    (found,) = findings(bits.drop(columns="vocab_size"))
    assert "perplexity or bits?" in found.reason


@pytest.mark.parametrize("cells", ["32k", None, np.nan, 0, pd.NA])
def test_a_vocabulary_that_is_no_number_is_not_used(table, cells):
    assert findings(table.assign(vocab_size=cells)) == ()


def test_a_diverged_run_is_named_and_the_others_stay(table):
    (found,) = findings(table.assign(loss=table["loss"].where(table.index != 3, 40.0)))

    assert found.runs == ("row 3",)
    assert "1 of 28 runs have a loss above" in found.reason
    assert not found.disqualifying


def test_losses_below_one_are_questioned(table):
    per_byte = table.assign(loss=table["loss"] / np.log(2) / 4.5)

    (found,) = findings(per_byte)

    assert "bits per byte?" in found.reason
    assert not found.disqualifying
    assert findings(per_byte, loss="nats") == ()
    assert findings(per_byte.assign(vocab_size=256)) == ()  # characters
    assert findings(per_byte.assign(bpb=1.0)) == ()  # the unit is in the table


def test_a_perplexity_of_good_models_is_questioned(table):
    (found,) = [
        f for f in findings(table.assign(loss=np.exp(table["loss"] - 0.5))) if "frequencies" in f.reason
    ]

    assert "perplexity?" in found.reason


def test_questions_lower_the_verdict(table):
    caution = fit_evidence(seen(table.assign(flops=table["flops"] * 4 / 3)), FitRequest(replicates=0))
    small = table.drop(columns="flops").assign(
        n_params=table["n_params"] / 3e5, n_tokens=table["n_tokens"] / 1e4
    )
    none = fit_evidence(seen(small), FitRequest(replicates=0))

    assert caution.verdict.grade != "sound"
    assert any("1.33 times 6 N D" in reason for reason in caution.verdict.reasons)
    assert none.verdict.grade == "do not rely"
    assert "unit of flops" in [f.code for f in caution.findings]


def test_what_was_stated_is_repeated_in_the_answer(table):
    (found,) = unit_findings(seen(table.assign(n_params=table["n_params"] / 1e6), n_params="M"), "exact")

    assert found.code == "units stated"
    assert found.reason.endswith("n_params in M")
    assert not found.grave


def test_runs_of_a_sweep_have_known_units(table):
    from scalelab.records.evidence import evidence

    assert unit_findings(evidence(table.assign(n_params=table["n_params"] / 1e6)), "exact") == ()


def test_toy_runs_on_two_cores_are_not_questioned(measured):
    table = pd.DataFrame(
        {"n_params": measured.N, "n_tokens": measured.D, "loss": measured.L, "flops": measured.C}
    )

    assert findings(table) == ()


PUBLIC = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not PUBLIC.exists(), reason="the public points are not beside the repository")
def test_public_tables_are_not_questioned(hoffmann_245, olmo):
    for runs in (hoffmann_245, olmo):
        assert isinstance(runs, Observations)
        table = pd.DataFrame({"n_params": runs.N, "n_tokens": runs.D, "loss": runs.L, "flops": runs.C})
        assert findings(table) == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("n_params", "cannot read the unit 'n_params'"),
        ("=M", "cannot read the unit '=M'"),
        ("n_parms=M", "did you mean 'n_params'?"),
        ("n_params=Q", "'Q' is no unit of n_params"),
        ("n_params=-1", "'-1' is no unit"),
        ("n_params=inf", "'inf' is no unit"),
        ("n_params=nan", "'nan' is no unit"),
        ("loss=bpb", "'bpb' is no unit of loss"),
        ("flops_planned=per-token", "is no unit of flops_planned"),
        ("n_params=M,n_params=B", "a column has two units"),
        ("seed=M", "'seed' has no unit to state"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(text, problem):
    with pytest.raises(ConfigError) as caught:
        TableUnits.parse(text)

    assert problem in caught.value.problem
    assert caught.value.where == "--units"


def test_units_convert_every_column_of_their_kind():
    table = pd.DataFrame(
        {
            "n_params_total": [1.5],
            "n_params_active": ["2"],
            "n_tokens": [3],
            "n_tokens_unique": [1],
            "loss": ["x"],
        }
    )

    found = TableUnits.parse("n_params=m,n_tokens=B,loss=bits").apply(table, "t.csv")

    assert found.iloc[0].to_dict() == {
        "n_params_total": 1.5e6,
        "n_params_active": 2e6,
        "n_tokens": 3e9,
        "n_tokens_unique": 1e9,
        "loss": "x",  # stays, to be refused with its row
    }
    with pytest.raises(DataError, match="has no column flops"):
        TableUnits.parse("flops=GFLOPs").apply(table, "t.csv")


def test_a_unit_in_a_name_or_a_cell_is_not_applied_twice(table):
    named = table.assign(n_params=table["n_params"] / 1e6).rename(columns={"n_params": "params (M)"})
    cells = table.assign(n_tokens=[f"{D / 1e9:.6f}B" for D in table["n_tokens"]])

    for twice, units in ((named, {"n_params": "M"}), (cells, {"n_tokens": "B"})):
        assert findings(twice) == ()
        with pytest.raises(ConfigError, match="was converted already"):
            seen(twice, **units)


@pytest.mark.parametrize("order", ["n_tokens=B,flops=per-token", "flops=per-token,n_tokens=B"])
def test_flops_of_one_token_are_multiplied_by_tokens_in_our_unit(table, order):
    wrong = table.assign(flops=6 * table["n_params"], n_tokens=table["n_tokens"] / 1e9)

    found = TableUnits.parse(order).apply(wrong, "t.csv")

    assert found["flops"].to_numpy() == pytest.approx(table["flops"].to_numpy())


@pytest.mark.parametrize("digits", [3, 4, 6])
def test_flops_rounded_from_6nd_are_not_called_exact(table, digits):
    rounded = [float(f"{C:.{digits - 1}e}") for C in table["flops"]]

    assert count_of_flops(table.assign(flops=rounded)) == "6ND"
    assert count_of_flops(table.assign(flops=1.03 * np.array(rounded))) == "exact"


def test_a_perplexity_that_looks_like_an_untrained_model_is_questioned(table):
    (found,) = findings(table.assign(loss=7 * table["loss"] / table["loss"].median()))

    assert "the median loss is 7" in found.reason
    assert "--units loss=perplexity" in found.reason
    short = table.drop(columns="flops").assign(n_tokens=table["n_tokens"] / 100, loss=7.0)
    assert findings(short) == ()  # too few tokens to say


def test_losses_of_different_vocabularies_are_not_one_law(table):
    sizes = np.where(table.index < 14, 32_000, 50_257)

    (found,) = findings(table.assign(vocab_size=sizes))

    assert found.disqualifying
    assert "32,000 to 50,257 tokens" in found.reason
    assert findings(table.assign(vocab_size=np.where(table.index < 14, 50_257, 50_304))) == ()


def test_a_unit_in_a_cell_of_another_count_is_not_applied_twice(table):
    counted = table.drop(columns="n_params").assign(
        n_params_total=[f"{N / 1e6:.6f}M" for N in table["n_params"]]
    )

    with pytest.raises(ConfigError, match="n_params in M, and n_params_total was converted already"):
        seen(counted, n_params="M")
    unique = table.assign(
        n_tokens=table["n_tokens"] / 1e9, n_tokens_unique=[f"{D / 1e9:.6f}B" for D in table["n_tokens"] * 0.9]
    )
    found = seen(unique, n_tokens="B").table
    assert found["n_tokens_unique"].to_numpy() == pytest.approx(0.9 * found["n_tokens"].to_numpy(), rel=1e-4)


@pytest.mark.parametrize(("column", "unit"), [("n_params", 1e6), ("n_params", 1e9), ("n_tokens", 1e9)])
def test_single_rows_in_another_unit_are_refused(table, column, unit):
    table = table.drop(columns="flops")
    mixed = table.assign(**{column: table[column].where(table.index != 5, table[column] / unit)})

    error = refusal(mixed)

    assert "1 of 28 runs have fewer than" in error.problem
    assert "row 5 (" in error.problem
    assert f"the column {column}" in error.where
    assert findings(mixed, **{column: 1}) == ()
