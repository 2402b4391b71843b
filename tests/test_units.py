"""Numbers as they are written for people."""

import pytest

from scalelab.units import digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (12.3456, "12.3"),
        (1190.0, "1,190"),
        (-1500.0, "-1,500"),
        (1e7, "1e7"),
        (2e-9, "2e-9"),
    ],
)
def test_digits_has_one_notation_without_a_padded_exponent(value, text):
    assert digits(3)(value) == text
