"""Trials of planted faults that several calls ran become one table."""

import json

import pytest
from check_recipe import earlier, merged, setting


def rows(place, *numbers, verdict="ok", digest=None):
    place.mkdir(exist_ok=True)
    found = [
        {
            "check": "transfer",
            "case": "clean",
            "seeds": [2 * n, 2 * n + 1],
            "setting": digest or setting("transfer"),
            "verdict": verdict,
            "worst": {"value": 0.1 * n},
        }
        for n in numbers
    ]
    (place / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return place


def test_calls_that_shared_the_trials_are_merged_and_each_counts_once(tmp_path):
    places = [rows(tmp_path / "a", 0, 1), rows(tmp_path / "b", 1, 2, digest="0" * 12)]
    found = merged(places)

    assert [key[2] for key in found] == [(0, 1), (2, 3), (4, 5)]
    assert {key[3] for key in found} == {setting("transfer")}
    (note,) = earlier("transfer", list(found.values()))
    assert "1 of 3 trials have the setting 000000000000" in note
    assert earlier("transfer", list(merged(places[:1]).values())) == []


def test_calls_that_disagree_or_found_nothing_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"elsewhere ok 0\.1"):
        merged([rows(tmp_path / "a", 1), rows(tmp_path / "b", 1, verdict="fails")])
    with pytest.raises(SystemExit, match=r"no trials in .*name the --runs"):
        merged([tmp_path / "none"])
