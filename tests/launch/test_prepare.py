"""`scalelab data` describes a corpus, whatever it is made of."""

from pathlib import Path

from scalelab.cli.main import main

SMOKE = Path(__file__).parents[2] / "sweeps" / "smoke.yaml"


def test_a_language_of_tokens_has_no_bytes(cache, capsys):
    data = "recipe.data={source: {kind: synthetic, documents: 100}}"

    assert main(["data", str(SMOKE), "--set", data]) == 0
    out = capsys.readouterr().out
    assert "not made of text" in out
    assert "synthetic-" in out
