"""`scalelab data` tells what a corpus holds, whatever it is made of."""

from pathlib import Path

from scalelab.launch.commands import prepare_data

SMOKE = Path(__file__).parents[2] / "sweeps" / "smoke.yaml"


def test_a_language_of_tokens_has_no_bytes(cache, capsys):
    data = "recipe.data={source: {kind: synthetic, documents: 100}}"

    assert prepare_data(SMOKE, [data]) == 0
    assert "not made of text, tokenizer synthetic-" in capsys.readouterr().out
