"""Drawing processes: what they draw, and what happens when they cannot."""

import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.observations import Observations
from scalelab.report.fit.page import write_report
from scalelab.report.plots import render_workers
from scalelab.report.plots.render_workers import RenderWorkers
from scalelab.study.study import study


def valleys():
    """Four budgets of five sizes on a Chinchilla surface with .1% noise."""
    C = np.repeat(np.geomspace(1e18, 3e19, 4), 5)
    N = 0.1 * (C / 6) ** 0.51 * np.tile(np.geomspace(0.3, 3, 5), 4)
    L = 1.8 + 480 / N**0.35 + 2100 / (C / 6 / N) ** 0.37
    L = L * np.exp(0.001 * np.random.default_rng(0).standard_normal(20))
    return Observations.of(N, C / 6 / N, L, flops_planned=C)


@pytest.fixture(scope="module")
def seen():
    return study(valleys(), target_flops=None, param_count="total", replicates=0)


def drawn(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*g")}


def children():
    """The processes that this one has started and that have not ended."""
    return [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


def test_they_draw_what_one_process_draws(seen, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    write_report(seen, alone, name="small", provenance={})

    with RenderWorkers() as painters:
        write_report(seen, together, name="small", provenance={}, workers=painters)

    assert len(drawn(alone)) == 16
    assert drawn(together) == drawn(alone)


def test_a_figure_whose_painter_was_killed_is_drawn_all_the_same(seen, tmp_path):
    before = children()
    with RenderWorkers() as painters:
        for child in set(children()) - set(before):
            os.kill(child, signal.SIGKILL)
        write_report(seen, tmp_path, name="small", provenance={}, workers=painters)

    assert len(drawn(tmp_path)) == 16


def test_what_a_painter_that_hangs_should_draw_is_drawn_all_the_same(seen, tmp_path, monkeypatch):
    monkeypatch.setattr(render_workers, "PATIENCE_SECONDS", 0.5)
    before = children()
    with RenderWorkers() as painters:
        (painter,) = set(children()) - set(before)
        os.kill(painter, signal.SIGSTOP)
        write_report(seen, tmp_path, name="small", provenance={}, workers=painters)
        assert painter not in children()

    assert len(drawn(tmp_path)) == 16


def test_numbers_of_a_type_that_only_this_process_knows_are_left_to_it(monkeypatch, capfd):
    module = ModuleType("only_here")
    module.Numbers = type("Numbers", (), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", module)

    with RenderWorkers() as painters:
        assert painters._drawn_there([("valleys", module.Numbers(), [])]) == set()
    assert capfd.readouterr().err == ""


def test_numbers_that_cannot_be_sent_are_drawn_here(monkeypatch):
    made = []
    monkeypatch.setattr(render_workers, "_render", made.extend)
    kept = [("valleys", lambda: None, []), ("surface", object(), [])]

    with RenderWorkers() as painters:
        painters.draw(kept)

    assert made == kept


def test_a_refused_fit_leaves_no_painter_behind():
    before = children()
    two = valleys().take(np.arange(2))
    with pytest.raises(FitError), RenderWorkers():
        study(two, target_flops=None, param_count="total", replicates=0)

    assert set(children()) == set(before)


def test_an_error_of_drawing_is_told_here(seen, tmp_path):
    (tmp_path / "valleys.png").mkdir()

    with pytest.raises(Exception, match=r"valleys\.png"), RenderWorkers() as painters:
        write_report(seen, tmp_path, name="small", provenance={}, workers=painters)
