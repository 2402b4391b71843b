"""What every error shares: text that is safe to show, and the place of its input."""

import pickle

import pytest

from scalelab.errors import DataError, within

INSTEAD = "\N{REPLACEMENT CHARACTER}"


def test_the_text_of_an_error_controls_no_terminal():
    """Cells and names are quoted: one may hold an escape code, or half a character that cannot be printed."""
    error = DataError("a cell \x1b[31m3", where="runs\x07.csv", fix="remove \ud800 and \u202e")

    assert str(error) == (
        f"a cell {INSTEAD}[31m3\n  where: runs{INSTEAD}.csv\n  fix:   remove {INSTEAD} and {INSTEAD}"
    )


def test_the_place_of_the_input_is_put_first_once():
    with pytest.raises(DataError) as error, within("runs.csv"), within("runs.csv"):
        raise DataError("too few", where="chinchilla", fix="add runs", evidence=[1])

    assert error.value.where == "runs.csv: chinchilla"
    assert str(error.value) == "too few\n  where: runs.csv: chinchilla\n  fix:   add runs"
    assert error.value.evidence == [1]
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
