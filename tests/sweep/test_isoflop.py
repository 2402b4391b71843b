"""The isoFLOP design: budgets are met, sizes are shared, what cannot be is refused."""

from pathlib import Path

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.sweep.file import SweepFile

SWEEPS = Path(__file__).parents[2] / "sweeps"
BASE = """
name: t
question: q
prediction: p
recipe:
  data: {source: pycode, tokenizer: {vocab_size: 1024}}
  seq_len: 64
  param_count: matmul
  model: {kind: transformer, n_layers: 2, head_size: 8}
  optimizer: {lr: 3e-3}
  batch: {min_tokens: 512, max_tokens: 4096}
design:
  kind: isoflop
  budgets: [3e11, 1e12, 3e12]
  sizes_per_budget: 6
  span: 8
  tokens_per_param: 14
"""


def sweep(*overrides):
    document = parse_yaml(BASE, "t.yaml")
    for override in overrides:
        document.override(override)
    return SweepFile.parse(document)


def ask(file):
    return file.design.ask(file.recipe, vocab_size=1024, data_digest="d" * 12)


@pytest.fixture(scope="module")
def proposals():
    return ask(sweep())


def test_every_run_spends_its_budget_to_within_half_a_step(proposals):
    for p in proposals:
        spec = p.spec
        step = spec.model.size(spec.seq_len).flops_per_token * spec.batch_tokens

        assert abs(p.flops - p.flops_planned) <= 0.5 * step * (1 + 1e-9)


def test_each_budget_has_its_sizes_and_they_span_what_was_asked(proposals):
    for budget in (3e11, 1e12, 3e12):
        sizes = [p.spec.model.size(64).n_params_matmul for p in proposals if p.flops_planned == budget]

        assert len(set(sizes)) == 6
        assert sizes == sorted(sizes)
        assert max(sizes) / min(sizes) == pytest.approx(8, rel=0.25)


def test_the_expected_optimum_lies_inside(proposals):
    for budget in (3e11, 1e12, 3e12):
        ratios = [
            p.spec.n_tokens / p.spec.model.size(64).n_params_matmul
            for p in proposals
            if p.flops_planned == budget
        ]

        assert sum(r > 14 for r in ratios) >= 2
        assert sum(r < 14 for r in ratios) >= 2


def test_budgets_share_sizes(proposals):
    by_budget = [
        {p.spec.model.d_model for p in proposals if p.flops_planned == budget}
        for budget in (3e11, 1e12, 3e12)
    ]

    assert len(by_budget[0] & by_budget[1]) >= 3
    assert len(by_budget[1] & by_budget[2]) >= 3


def test_planned_and_actual_sizes_are_kept_side_by_side(proposals):
    for p in proposals:
        actual = p.spec.model.size(64).n_params_matmul
        assert actual == pytest.approx(p.n_params_planned, rel=0.25)
    assert any(p.spec.model.size(64).n_params_matmul != p.n_params_planned for p in proposals)


def test_replicates_repeat_the_centre_with_other_seeds():
    proposals = ask(sweep("design.replicates=2"))
    extra = [p for p in proposals if p.spec.seed != 0]

    assert [p.flops_planned for p in extra] == [3e11, 3e11, 3e12, 3e12]
    assert {p.spec.seed for p in extra} == {1, 2}
    for p in extra:
        twin = p.spec.model_copy(update={"seed": 0})
        assert twin.digest in {q.spec.digest for q in proposals}


def test_replicates_where_tokens_are_few():
    """Two of three budgets are the lower half; of six sizes, two lie above the centre."""
    file = sweep("design.replicates=2", "design.replicate_at=few_tokens")
    proposals = ask(file)
    extra = [p for p in proposals if p.spec.seed != 0]

    assert len(proposals) == file.design.n_runs() == 18 + 2 * 2 * 2
    assert {p.spec.seed for p in extra} == {1, 2}
    for budget in (3e11, 1e12):
        replicated = {p.spec.n_tokens for p in extra if p.flops_planned == budget}
        others = {p.spec.n_tokens for p in proposals if p.flops_planned == budget} - replicated
        assert len(replicated) == 2
        assert max(replicated) < min(others)
    assert not any(p.flops_planned == 3e12 for p in extra)


def test_the_same_file_asks_for_the_same_runs():
    assert [p.spec.digest for p in ask(sweep())] == [p.spec.digest for p in ask(sweep())]


def test_a_run_does_not_depend_on_which_sweep_asks():
    few, more = ask(sweep("design.budgets=[3e11]")), ask(sweep("name=other"))

    assert {p.spec.digest for p in few} <= {p.spec.digest for p in more}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("design.budgets=[3e12, 3e11]", "budgets must rise without repeats"),
        ("design.budgets=[3e11, 3e11]", "budgets must rise without repeats"),
        ('design.budgets=["3e11"]', "'3e11' is text, not a number"),
        ("design.sizes_per_budget=2", "2 sizes cannot show a minimum"),
        ("design.span=1", "span 1.0 leaves no room"),
        ("design.kind=isoflops", "unknown design 'isoflops'; did you mean 'isoflop'?"),
        ("recipe.model.kind=transfromer", "unknown architecture 'transfromer'; did you mean"),
        ("recipe.data.source=pycod", "unknown source 'pycod'; did you mean 'pycode'?"),
        ("recipe.schedule=wds", "unknown schedule 'wds'; did you mean 'wsd'?"),
        ("launch.executor=locale", "unknown executor 'locale'; did you mean 'local'?"),
        (
            "launch={executor: inline, slots: 2}",
            "slots belongs to the executor local: write executor: {kind: local, slots: ...}",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_the_file(change, problem):
    with pytest.raises(ConfigError) as error:
        sweep(change)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("design.budgets=[1e8]", "a budget of 1e8 FLOPs is too small"),
        ("design.sizes_per_budget=25", "come out as the same model"),
        ("recipe.model.head_size=64", "is too small: the smallest model of the family"),
        ("design.span=500", "can be built"),
        ("recipe.batch={min_tokens: 65536, max_tokens: 65536}", "fewer than min_steps 100"),
    ],
)
def test_what_cannot_be_built_is_refused_when_asked(change, problem):
    with pytest.raises(ConfigError) as error:
        ask(sweep(change))
    assert problem in str(error.value)
    assert "\n  fix:   " in str(error.value)


@pytest.mark.parametrize(
    "path",
    sorted({*SWEEPS.glob("*.yaml"), *SWEEPS.glob("questions/**/*.yaml")} - {SWEEPS / "tune.yaml"}),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_every_sweep_we_ship_says_its_question_and_can_be_built(path, monkeypatch):
    monkeypatch.chdir(SWEEPS.parent)
    file = SweepFile.load(path)
    vocab = 257 if file.recipe.data.tokenizer.kind == "bytes" else file.recipe.data.tokenizer.vocab_size

    proposals = file.design.ask(file.recipe, vocab_size=vocab, data_digest="d" * 12)

    assert file.name == path.stem
    assert file.question.strip().endswith("?")
    assert len(file.prediction) > 40
    assert len(proposals) >= 9


def test_the_large_sweep_covers_the_sizes_and_budgets_that_it_promises():
    file = SweepFile.load(SWEEPS / "isoflop_h200.yaml")
    proposals = file.design.ask(file.recipe, vocab_size=32768, data_digest="d" * 12)
    sizes = [p.spec.model.size(file.recipe.seq_len).n_params_matmul for p in proposals]

    assert (min(file.design.budgets), max(file.design.budgets)) == (1e17, 1e19)
    assert min(sizes) < 2e7
    assert max(sizes) > 8e8
    models = [p.spec.model for p in proposals]
    assert {model.head_size for model in models} == {128}
    assert {n % 128 for model in models for n in (model.d_model, model.d_ff)} == {0}
    assert sum(p.flops for p in proposals) == pytest.approx(1.1e20, rel=0.05)


def test_a_design_that_asks_one_by_one_is_refused_with_trunks(monkeypatch):
    monkeypatch.setattr("scalelab.sweep.isoflop.IsoFlopDesign.takes_trunks", False)

    with pytest.raises(ConfigError, match="asks for its runs one by one, so they cannot share trunks"):
        sweep("recipe.schedule={kind: wsd, trunk: true}")


def test_budgets_that_come_out_as_one_run_are_refused():
    with pytest.raises(
        ConfigError, match=r"budgets 3e\+11 and 3.000001e\+11 come out as the same run"
    ) as caught:
        ask(sweep("design.budgets=[3e11, 3.000001e11, 3e12]"))

    assert caught.value.where == "design.budgets"
