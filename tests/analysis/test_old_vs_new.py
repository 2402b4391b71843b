"""The experiment of two ways: equal compute, honest rules, honest words, nothing done twice."""

import math
from dataclasses import replace

import chain
import old_vs_new
import old_way
import pytest
from old_vs_new import Arm, Difference, difference
from old_way import Lab, Sampler, Search, Task, Trial, by_kaplan, by_ratio, naive, with_settings
from scipy.stats import ttest_rel

from scalelab.errors import ConfigError, RunError
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.launch.sweep_plan import place
from scalelab.launch.sweep_run import write_manifest
from scalelab.sweep.file import SweepFile
from scalelab.train.run_directory import RunDir

VOCAB = 1024
SWEEP = """
name: tiny
question: Does it hold together?
prediction: Both ways spend the same.
recipe:
  data:
    source: {kind: text, paths: ["TEXT/*.txt"]}
    tokenizer: {kind: bytes}
    validation: 0.2
    epochs: 1000
  seq_len: 32
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 4, ff_multiple: 4}
  optimizer: {lr: 3e-3, embedding_lr: 10, head_lr: 5}
  batch: {coefficient: 0.9, exponent: 0.5, min_tokens: 128, max_tokens: 1024}
  min_steps: 3
  evaluation: {tokens: 1024, curve_points: 0, curve_tokens: 1024}
  precision: fp32
design: {kind: isoflop, budgets: [1e9, 2e9], sizes_per_budget: 3, span: 4, tokens_per_param: 6}
launch: {executor: inline}
"""


@pytest.fixture(scope="module")
def recipe():
    return SweepFile.load(chain.SWEEP).recipe


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny_text, cache):
    """One seed of a tiny experiment, its sweep trained."""
    home = tmp_path_factory.mktemp("experiment")
    path = home / "tiny.yaml"
    path.write_text(SWEEP.replace("TEXT", str(tiny_text)))
    lab = Lab(3, home / "runs", home, path, SweepFile.load(path), final_flops=4e9)
    file = SweepFile.load(path, chain.words_of(lab.seed, path)[1])
    asked = file.design.ask(file.recipe, vocab_size=lab.corpus.vocab_size, data_digest=lab.corpus.digest)
    work = place(asked, lab.root, file.name)
    write_manifest(file, work, lab.root)
    old_way.train(file, work, InlineExecutor())
    return lab


class Refuses(InlineExecutor):
    """An executor that was not to be asked."""

    def submit(self, run_dir: RunDir) -> None:
        raise AssertionError(f"{run_dir.run} was trained again")


def arm(way, seed, loss, **changes):
    made = Arm(way, seed, 1.9e13, 6.4e12, 240_000, 4_000_000, loss, "finished")
    return replace(made, **changes)


def link(seed, loss, quoted=(2.9, 3.1), **changes):
    """One chain that forecast 3.0."""
    made = chain.Chain(
        seed=seed,
        sweep_flops=1.9e13,
        n_sweep_runs=24,
        run_ids=frozenset({f"run{seed}", f"run{seed + 1}"}),
        final_flops=6.4e12,
        n_params=240_000,
        n_tokens=4_000_000,
        param_count="matmul",
        status="finished",
        loss=loss,
        forecast=3.0,
        noise=(2.95, 3.05),
        quoted=quoted,
        level=0.8,
        reach=4.0,
        law="isoflop",
        grade="with caution",
    )
    return replace(made, **changes)


@pytest.mark.parametrize("flops", [3e11, 1.7e12, 6.4e12, 2.2e13])
def test_no_other_size_comes_nearer_to_twenty_tokens_a_parameter(recipe, flops):
    chosen = by_ratio(recipe, VOCAB, flops, 3e11)

    def miss(model):
        size = model.size(recipe.seq_len)
        return abs(math.log(flops / size.flops_per_token / size.n_params_matmul / 20))

    members = recipe.model.members(VOCAB)
    assert miss(chosen) == min(miss(next(members)) for _ in range(60))


def test_kaplans_rule_grows_with_compute_to_the_073(recipe):
    small, large = (by_kaplan(recipe, VOCAB, c, 3e11).size(64).n_params_matmul for c in (3e11, 3e13))

    assert small == by_ratio(recipe, VOCAB, 3e11, 3e11).size(64).n_params_matmul
    assert math.log10(large / small) / 2 == pytest.approx(0.73, abs=0.02)


@pytest.mark.parametrize(("width", "batch_tokens"), [(18, 512), (96, 4096)])
def test_naive_rates_are_adamws_defaults_everywhere(recipe, width, batch_tokens):
    made = naive(recipe)
    model = next(m for m in made.model.members(VOCAB) if m.width() == width)
    rates = made.optimizer.at(made.scale(model, 1e6).with_batch(batch_tokens))

    kinds = (rates.lr_matrix, rates.lr_embedding, rates.lr_head, rates.lr_vector)
    assert kinds == (1e-3, 1e-3, 1e-3, 1e-3)
    assert (rates.beta1, rates.beta2, rates.eps, rates.weight_decay) == (0.9, 0.999, 1e-8, 0.01)
    assert {made.scale(model, n_tokens).batch_tokens for n_tokens in (1e5, 1e9)} == {1024}


def test_settings_change_what_is_tuned_and_nothing_else(recipe):
    settings = {"lr": 2e-3, "embedding_lr": 3, "head_lr": 4, "weight_decay": 0.2, "batch": 2.0}
    made = with_settings(recipe, settings)

    model = next(recipe.model.members(VOCAB))
    for n_tokens in (1e5, 1e6, 1e8):
        once, twice = (r.scale(model, n_tokens).batch_tokens for r in (recipe, made))
        assert twice == 2 * once
    kept = {"optimizer": recipe.optimizer, "batch": recipe.batch}
    assert made.model_copy(update=kept) == recipe
    changed = {k: getattr(recipe.optimizer, k) for k in old_way.SPACE}
    assert made.optimizer.lr == 2e-3
    assert made.optimizer.model_copy(update=changed) == recipe.optimizer


def asked(seed, recipe, rounds=6):
    """Settings that a sampler asks for when low rates are told to be good and one diverges."""
    sampler, found = Sampler(recipe, seed), []
    for k in range(rounds):
        pair = [sampler.ask(), sampler.ask()]
        sampler.tell([None if k == 2 else s["lr"] for s in pair])
        found += pair
    return found


def test_tuning_begins_with_the_start_and_is_the_same_every_time(recipe):
    one, again, other = asked(0, recipe), asked(0, recipe), asked(1, recipe)

    assert one[0] == {"lr": 6e-3, "embedding_lr": 10, "head_lr": 6, "weight_decay": 0.1, "batch": 1}
    assert one == again
    assert one[1:] != other[1:]
    for settings in one:
        assert all(low <= settings[k] <= high for k, (low, high) in old_way.SPACE.items())


def test_tuning_follows_what_it_is_told(recipe):
    found = [settings["lr"] for settings in asked(0, recipe, rounds=20)]

    assert sum(found[-10:]) < 0.5 * sum(found[: old_way.RANDOM]) * 10 / old_way.RANDOM


def test_old_way_spends_what_the_new_way_does_and_never_twice(lab):
    once = old_vs_new.old_arms([lab], ["naive"], InlineExecutor())
    twice = old_vs_new.old_arms([lab], ["naive"], Refuses())

    (made,) = once
    assert once == twice
    model = Task(lab, "naive").model.size(32)
    half_step = 0.5 * model.flops_per_token * 2 * old_way.NAIVE_WINDOWS * 32
    assert len(made.trials) == 24
    assert made.flops == pytest.approx(lab.total_flops, abs=half_step)
    assert made.loss < min(trial.loss for trial in made.trials)


def test_more_trials_go_on_from_fewer(lab, monkeypatch):
    extra = lab.search_flops(old_way.NEW["new"]) * 3.5 / 24
    monkeypatch.setitem(old_way.OLD, "paid", replace(old_way.OLD["paid"], extra_flops=extra))
    few = old_way.search(Task(lab, "naive"), InlineExecutor())
    many = old_way.search(Task(lab, "paid"), InlineExecutor())

    assert len(many.trials) == 27
    assert many.trials[:24] == few.trials
    spent = many.spent + many.final().flops
    assert spent == pytest.approx(lab.total_flops + extra, rel=0.01)


def test_what_diverged_trials_leave_goes_to_the_final_run(lab):
    task = Task(lab, "naive")
    good = {"lr": 1e-3, "embedding_lr": 1, "head_lr": 1, "weight_decay": 0.1, "batch": 1}
    cut_short = Search(task, (Trial(good, 3.0, 4e8), Trial(good | {"lr": 1e-2}, None, 1e8)))

    assert cut_short.best.settings == good
    assert cut_short.final().flops == pytest.approx(lab.total_flops - 5e8, rel=0.01)


def test_a_search_that_only_diverged_is_refused(lab):
    search = Search(Task(lab, "tuned"), (Trial({}, None, 1e8),))

    with pytest.raises(RunError, match="all 1 trials diverged"):
        search.final()


def test_trials_too_short_for_some_batch_are_refused_before_any(lab, monkeypatch):
    model = Task(lab, "naive").model.size(32)
    two_large_steps = 2 * model.flops_per_token * 2 * old_way.NAIVE_WINDOWS * 32
    n_trials = round(lab.search_flops(old_way.NEW["new"]) / two_large_steps)
    monkeypatch.setitem(old_way.NEW, "new", replace(old_way.NEW["new"], n_trials=n_trials))

    with pytest.raises(ConfigError, match="has 2 steps, fewer than min_steps 3"):
        old_vs_new.old_arms([lab], ["naive"], Refuses())


def test_a_part_of_the_sweep_asks_for_nothing_that_the_whole_did_not_train():
    """Branches of trunks are trained anew: their batch and warmup follow from all token counts of a size."""

    def ids(budgets):
        name, overrides = chain.words_of(1, chain.SWEEP, budgets)
        file = SweepFile.load(chain.SWEEP, [*overrides, "recipe.schedule.trunk=false"])
        assert file.name == name
        asked = file.design.ask(file.recipe, vocab_size=VOCAB, data_digest="0")
        return name, {p.spec.digest for p in asked}, {p.flops_planned for p in asked}

    whole_name, whole, budgets = ids(None)
    part_name, part, kept = ids(sorted(budgets)[:-1])
    assert part_name != whole_name
    assert part < whole
    assert kept == budgets - {max(budgets)}


def test_the_old_way_is_given_what_the_sweep_has_spent(lab):
    spent = lab.search_flops(old_way.NEW["new"])

    assert spent == pytest.approx(3 * 1e9 + 3 * 2e9, rel=0.02)
    assert lab.total_flops == spent + 4e9


def test_the_interval_is_students(recipe):
    old, new = (3.12, 3.15, 3.09), (3.10, 3.11, 3.10)
    apart = Difference(tuple(a - b for a, b in zip(old, new, strict=True)))

    oracle = ttest_rel(old, new).confidence_interval(old_vs_new.LEVEL)
    assert apart.interval == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ((0.10, 0.11, 0.12), "**new lower**; the new way ended lower in 3 of 3 pairs"),
        ((-0.10, -0.11, -0.12), "**old lower**; the new way ended lower in 0 of 3 pairs"),
        ((-0.10, 0.11, 0.12), "**not told apart**; the new way ended lower in 2 of 3 pairs"),
        ((0.10,), "not judged: the new way ended lower in 1 of 1 pairs"),
    ],
)
def test_the_verdict_is_said_whichever_way_it_comes_out(pairs, words):
    assert str(Difference(pairs)) == words


def test_only_seeds_in_which_both_finished_are_paired():
    arms = [arm("new", 0, 3.0), arm("new", 1, None), arm("new", 2, 3.2)]
    arms += [arm("naive", 0, 3.1), arm("naive", 1, 3.1), arm("naive", 2, 3.1)]

    assert difference(arms, "naive").pairs == pytest.approx((0.1, -0.1))


def test_the_page_tells_losses_costs_and_a_forecast_that_missed(tmp_path):
    trial = Trial({k: 1.0 for k in (*old_way.SPACE, "batch")}, 3.3, 8e11)
    arms = [arm("new", s, 3.2, forecast=link(s, 3.2)) for s in (0, 1)]
    arms += [arm("naive", s, 3.1 + 0.001 * s, trials=(trial,)) for s in (0, 1)]
    text = old_vs_new.page(arms, "x.png")
    old_vs_new.draw(arms, tmp_path / "x.png")

    assert "| naive | 2 | 3.1005 | 0.0007 | new | -0.0995 [-0.1059, -0.0931] | **old lower**" in text
    assert "0 of 2 quoted 80% intervals held; missed with seed 0, 1" in text
    assert "| new | 0 | 19 | 6.4 | 25.4 | 240k | 4M | 16.7 | 3.2000 | 3.0000 [2.9" in text
    assert "found 16.7 to 16.7 here" in text
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_the_chains_page_shows_misses_and_shared_runs():
    text = chain.page([link(0, 3.06), link(1, 3.2), link(2, None, status="diverged")])

    assert "| 3.0600 | +2.00% | **missed** | held |" in text
    assert "| 3.2000 | +6.67% | **missed** | **missed** |" in text
    assert "| diverged | unknown | unknown | unknown |" in text
    assert "- noise: 0 of 2 80% intervals held; MISSED with seed 0, 1; 1 could not be judged." in text
    assert "- quoted: 1 of 2 80% intervals held; MISSED with seed 1;" in text
    assert "mean absolute error 4.33%, largest 6.67%; measured losses lie all above" in text
    assert "- mean signed error +4.33% (standard error 2.33%)." in text
    assert "- verdict: sound in 0 of 3." in text
    assert "- width of the quoted interval: mean 6.67%, largest 6.67%." in text
    assert "share up to 1 of 24 runs" in text


def test_runs_directories_are_one_for_each_seed(tmp_path):
    with pytest.raises(SystemExit, match="names 1 directories, --seeds 2 seeds"):
        chain.roots([0, 1], [tmp_path], tmp_path)
