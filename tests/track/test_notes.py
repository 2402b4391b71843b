"""Notes in MLflow show names and questions as they are, whatever marks these contain."""

from types import SimpleNamespace

import pytest
from rich.markdown import Markdown

from scalelab.tracking import payload, stage_mirror

NASTY = "a*b*<img src=x>\x1b[31m|c"
SHOWN = "a*b*<img src=x>\N{REPLACEMENT CHARACTER}[31m|c"


def shown(text):
    """Text of a Markdown page as it is displayed; fails at raw HTML."""
    parser = Markdown(text).parsed
    tokens = [inner for token in parser for inner in (token, *(token.children or ()))]
    assert not {token.type for token in tokens} & {"html_inline", "html_block", "em_open"}
    return "".join(token.content for token in tokens if token.type == "text")


def sweep_note():
    planned = SimpleNamespace(
        run=NASTY, dir=f"{NASTY}/x", flops_planned=1e9, n_params=10, n_tokens=10, seed=0
    )
    manifest = SimpleNamespace(
        sweep="s", question=NASTY, prediction=f"L* and N* {NASTY}", param_count="total", runs=[planned]
    )
    return payload.note(manifest, {NASTY: None})


def stage_note():
    planned = SimpleNamespace(id="1", stage=NASTY, kind="sft")
    manifest = SimpleNamespace(
        base={"run": NASTY}, question=NASTY, prediction=f"L* and N* {NASTY}", stages=[planned]
    )
    return stage_mirror._note(manifest, ["planned"], {"1": None})


@pytest.mark.parametrize("note", [sweep_note, stage_note])
def test_a_note_shows_names_as_they_are(note):
    text = note()

    assert "\x1b" not in text
    assert shown(text).count(SHOWN) >= 3
    assert "L* and N*" in shown(text)
