"""Members of a table: our own, those that packages add, and those that cannot be used."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Protocol

import pytest

from scalelab import registry
from scalelab.errors import ConfigError
from scalelab.laws import LAWS
from scalelab.laws.base import Law
from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.registry import Registry
from scalelab.sweep import DESIGNS


@pytest.fixture
def adds(monkeypatch):
    """A function that makes packages add entry points, name to target."""

    def add(group, **points):
        found = EntryPoints(EntryPoint(n, place, group) for n, place in points.items())
        monkeypatch.setattr(registry, "_installed", lambda: found)

    return add


def test_a_package_adds_a_member_behind_our_own(adds):
    adds("scalelab.laws", mine="scalelab.laws.forms.kaplan:Kaplan")
    assert [*LAWS][-1] == "mine"
    assert "mine" in LAWS
    assert len(LAWS) == len([*LAWS])
    assert issubclass(LAWS["mine"], Law)


def test_a_group_is_for_one_table(adds):
    adds("scalelab.laws", mine="scalelab.laws.forms.kaplan:Kaplan")
    assert "mine" not in DESIGNS


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("no_such_package.x:Law", "No module named 'no_such_package'"),
        ("scalelab.laws.forms.kaplan:Nothing", "has no attribute 'Nothing'"),
        ("scalelab.errors:ConfigError", "ConfigError is no subclass of scalelab.laws.base.Law"),
        ("scalelab.laws.base:Law", "it does not define "),
        ("scalelab.units:si", "it is no class but function"),
    ],
)
def test_what_is_no_law_is_refused_by_the_package_s_name(adds, place, words):
    adds("scalelab.laws", mine=place)
    with pytest.raises(ConfigError, match="the law 'mine' of the package") as caught:
        LAWS["mine"]
    assert words in caught.value.problem
    assert place in caught.value.where
    assert "pip uninstall" in caught.value.fix


class Speaks(Protocol):
    def say(self, word): ...


def test_a_protocol_s_names_have_to_be_there(adds):
    table = Registry("way", {}, group="scalelab.ways", base=f"{__name__}:Speaks")
    adds("scalelab.ways", mine="scalelab.errors:ConfigError")
    with pytest.raises(ConfigError, match="it lacks say"):
        table["mine"]


def test_a_name_that_is_taken_is_refused(adds):
    adds("scalelab.laws", kaplan="somebody.else:Law")
    with pytest.raises(ConfigError, match="two packages add a law 'kaplan': scalelab "):
        LAWS["kaplan"]
    with pytest.raises(ConfigError, match="two packages"):
        list(LAWS)


def test_our_own_targets_conform():
    """Every member of every table is what the table says that it holds."""
    from scalelab.bench import BENCHMARKS
    from scalelab.data import SOURCES, TOKENIZERS
    from scalelab.data.curate import CURATION_STAGES, PAGE_SOURCES
    from scalelab.evals import CONVERSATIONS, JUDGES, LAYOUTS, MEASUREMENTS, TASKS
    from scalelab.hardware import CHECKS
    from scalelab.jobs import EXECUTORS
    from scalelab.model import ARCHITECTURES
    from scalelab.posttrain import STAGES
    from scalelab.report.plots.figure_file import FIGURES
    from scalelab.train import SCHEDULES

    tables = (SOURCES, TOKENIZERS, CONVERSATIONS, JUDGES, TASKS, EXECUTORS, ARCHITECTURES, STAGES, FIGURES)
    curation = (PAGE_SOURCES, CURATION_STAGES)
    others = (LAYOUTS, MEASUREMENTS, SCHEDULES, LAWS, MIXTURE_LAWS, DESIGNS, CHECKS, BENCHMARKS)
    for table in (*tables, *others, *curation):
        assert isinstance(table, Registry)
        for name in table:
            member = table[name]
            if table.base is not None:
                assert registry._lacks(member, registry.resolved(table.base)) == ""
