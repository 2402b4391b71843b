"""What a person may write, and how every mistake is answered."""

import pickle
from typing import Literal

import pytest
from pydantic import Field, model_validator

from scalelab.config import (
    Config,
    Count,
    Flops,
    Fraction,
    Name,
    Switch,
    parse_yaml,
    plugin,
    refuse_arithmetic,
)
from scalelab.errors import ConfigError
from scalelab.registry import Registry


class Quick(Config):
    kind: Literal["quick"] = "quick"
    pace: Count = 3


class Slow(Config):
    kind: Literal["slow"] = "slow"


WAYS = Registry("way", {"quick": f"{__name__}:Quick", "slow": f"{__name__}:Slow"}, group="scalelab.ways")


class Inner(Config):
    way: plugin(WAYS) = Slow()
    share: Fraction = 0.5


class Outer(Config):
    name: Name
    budgets: tuple[Flops, ...]
    inner: Inner = Inner()
    on: Switch = True


GOOD = "name: a\nbudgets: [1e12, 3.0e+12]\ninner:\n  way: {kind: quick, pace: 1e3}\n  share: 1\n"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Quick.__module__])


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Outer.load(path, overrides)

    return load


def answer(load, text, *overrides):
    with pytest.raises(ConfigError) as error:
        load(text, *overrides)
    shown = str(error.value)
    assert shown.count("\n  where: ") == 1
    assert shown.count("\n  fix:   ") == 1
    return shown


def test_numbers_are_read_as_yaml_1_2_says(load):
    config = load(GOOD)

    assert config.budgets == (1e12, 3e12)
    assert config.inner.way == Quick(pace=1000)
    assert config.inner.share == 1.0


def test_a_bare_word_names_a_plugin(load):
    assert load("name: a\nbudgets: [1]\ninner: {way: quick}\n").inner.way == Quick()


def test_equal_contents_share_a_digest_and_others_do_not(load):
    one = load(GOOD)
    same = load("budgets: [1.0e12, 3e12]\nname: a\ninner: {share: 1.0, way: {pace: 1000, kind: quick}}\n")

    assert one.digest == same.digest != load(GOOD, "inner.share=0.4").digest


def test_what_is_written_out_reads_back_equal(load):
    config = load(GOOD)

    assert load(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("line", "place", "problem"),
    [
        ("nmae: b", "a.yaml:6: nmae", "unknown key 'nmae'; did you mean 'name'?"),
        ("on: yes", "a.yaml:6: on", "valid boolean, got 'yes'"),
        ("on: no", "a.yaml:6: on", "valid boolean, got 'no'"),
        ("name: c", "a.yaml:6", "the key 'name' is given twice"),
    ],
)
def test_a_mistake_is_named_with_its_line(load, line, place, problem):
    shown = answer(load, GOOD + line + "\n")

    assert place in shown
    assert problem in shown


@pytest.mark.parametrize(
    ("change", "place", "problem"),
    [
        ('budgets=["1e12"]', "budgets.0", "'1e12' is text, not a number"),
        ("budgets=[-1]", "budgets.0", "greater than 0, got -1"),
        ("budgets=[.nan]", "budgets.0", "got nan"),
        ("budgets=[.inf]", "budgets.0", "got inf"),
        ("budgets=5", "budgets", "got 5"),
        ("inner.share=20", "inner.share", "less than or equal to 1, got 20"),
        ("inner.way.pace=2.5", "inner.way.pace", "valid integer, got 2.5"),
        ("inner.way.pace=true", "inner.way.pace", "valid integer, got True"),
        ("inner.way.pase=2", "inner.way.pase", "unknown key 'pase'; did you mean 'pace'?"),
        ("inner.way=quik", "inner.way", "unknown way 'quik'; did you mean 'quick'?"),
        ("name=../up", "name", "got '../up'"),
    ],
)
def test_an_override_is_checked_like_the_file(load, change, place, problem):
    shown = answer(load, GOOD, change)

    assert f"--set {change}: {place}" in shown
    assert problem in shown


def test_every_mistake_is_answered_at_once(load):
    shown = answer(load, "budgets: [1, -2, x]\ninner: {share: 3, wayy: 1}\n")

    assert "5 mistakes in" in shown
    for place in ("a.yaml:1: name", "a.yaml:1: budgets.1", "a.yaml:1: budgets.2", "a.yaml:2: inner.share"):
        assert place in shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("[1, 2]", "not made of keys and values"),
        ("a: [1", "not YAML"),
        ("a:\tb\n\tc: 1", "not YAML"),
        ("a: *nowhere", "not YAML"),
        (b"\x00\x01\x02", "not YAML"),
        (bytes(range(256)), "not UTF-8 text"),
    ],
)
def test_what_is_no_config_is_said_to_be_none(load, text, problem):
    assert problem in answer(load, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Outer.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize("change", ["budgets", "=3", "a..b=1", "budgets.7=1", "name.x.y=1", "a=[1"])
def test_an_override_that_cannot_be_read(load, change):
    assert "--set" in answer(load, GOOD, change) or "leads nowhere" in answer(load, GOOD, change)


def test_tags_run_nothing(load, tmp_path):
    mark = tmp_path / "ran"
    answer(load, f"name: !!python/object/apply:os.system ['touch {mark}']\nbudgets: [1]\n")

    assert not mark.exists()


def test_a_list_whose_only_item_is_wrong_is_not_called_too_short():
    class Listed(Config):
        items: tuple[Inner, ...] = Field(min_length=1)

    with pytest.raises(ConfigError) as error:
        Listed.parse(parse_yaml("items: [{share: 3}]", "a.yaml"))
    assert "1 mistake in a.yaml" in str(error.value)
    with pytest.raises(ConfigError, match="at least 1 item"):
        Listed.parse(parse_yaml("items: []", "a.yaml"))


def test_arithmetic_that_leads_nowhere_is_a_refusal():
    for body, reason in (
        (lambda: 10.0**400, "too large for a number"),
        (lambda: 1 / 0, "a division by zero"),
        (lambda: Quick(pace=-1), "pace: input should be greater than 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=reason) as error, refuse_arithmetic("x", "recipe", "change it"):
            body()
        assert error.value.where == "recipe"


def test_an_error_of_a_whole_section_names_the_overrides_inside(load):
    class Ends(Config):
        low: Count = 1
        high: Count = 2

        @model_validator(mode="after")
        def _ordered(self):
            if self.low > self.high:
                raise ValueError("low is over high")
            return self

    class Range(Config):
        ends: Ends

    document = parse_yaml("ends:\n  low: 1\n", "a.yaml")
    document.override("ends.low=7")
    with pytest.raises(ConfigError) as error:
        Range.parse(document)

    assert error.value.where == "a.yaml:1 with --set ends.low=7: ends: low is over high"


def test_an_error_of_what_a_config_leads_to_names_its_file_and_line(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    config = Outer.load(tmp_path / "a.yaml", ["inner.share=0.25"])

    def refused(where):
        with pytest.raises(ConfigError) as error, config.located():
            raise ConfigError("too small", where=where, fix="raise it")
        assert str(error.value) == f"too small\n  where: {error.value.where}\n  fix:   raise it"
        return error.value.where

    assert refused("budgets") == f"{tmp_path / 'a.yaml'}:2: budgets"
    assert refused("budgets: the slice") == f"{tmp_path / 'a.yaml'}:2: budgets: the slice"
    assert refused("inner.way.pace, for 3") == f"{tmp_path / 'a.yaml'}:4: inner.way.pace, for 3"
    assert refused("inner.share") == "--set inner.share=0.25: inner.share"
    assert refused("runs/x") == "runs/x"
    assert refused("nothing.here") == "nothing.here"
    assert config == Outer.load(tmp_path / "a.yaml", ["inner.share=0.25"])
    assert "origin" not in config.model_dump_json()
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_config_with_a_mapping_can_be_hashed():
    class Part(Config):
        shares: dict[str, float] = {}
        sizes: tuple[int, ...] = ()

    class Whole(Config):
        part: Part
        names: dict[str, list[int]] = {}

    one = Whole(part={"shares": {"a": 0.5, "b": 0.5}}, names={"a": [1, 2]})
    other = Whole(part={"shares": {"b": 0.5, "a": 0.5}}, names={"a": [1, 2]})

    assert one == other
    assert len({one, other}) == 1
    assert len({one, Whole(part={"shares": {"a": 1.0}}), Whole(part={"sizes": (1,)})}) == 3
