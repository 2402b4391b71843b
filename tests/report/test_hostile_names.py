"""Names, questions and data that hold escape sequences and HTML, through each command and into its report."""

import os
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt

from scalelab.cli.main import COMMANDS, main
from scalelab.records.sweep_manifest import PlannedRun, SweepManifest
from scalelab.screen import ask, echo, note

HOSTILE = "\x1b[31mred\x1b]0;title\x07 <script>alert(1)</script> \u202egnp $x_{$ `</code>` |"
IN_NAME = HOSTILE.replace("/", "\\").replace(" ", "_")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    return tmp_path


def printed(capsys):
    shown = capsys.readouterr()
    assert not CONTROL.search(shown.out)
    assert not CONTROL.search(shown.err)
    return shown


def status_of(argv):
    """Exit status of a command, also where the parser ends it."""
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code


def assert_page_is_harmless(path):
    """Shown with raw HTML allowed, as MLflow does, the page has no element of the names."""
    text = path.read_text()
    assert not CONTROL.search(text)
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert not re.search("<script|<img[^>]*onerror", page)


@pytest.fixture
def table(here):
    """A table whose name, runs and groups are hostile; one run is an outlier, so that it is named."""
    draw = np.random.default_rng(0)
    lines = ["run,group,n_params,n_tokens,loss,flops_planned"]
    for C in (1e18, 3e18, 1e19, 3e19):
        for k, N in enumerate(0.09 * C**0.5 * np.geomspace(0.3, 3, 7)):
            D = C / 6 / N
            loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.002 * draw.normal())
            loss *= 1.2 if (k, C) == (3, 1e19) else 1
            name = f"{HOSTILE} {k} {C:g}".replace('"', "")
            lines.append(f'"{name}","{name}",{N:.10g},{D:.10g},{loss:.10g},{C:.10g}')
    path = here / f"{IN_NAME}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


def test_fit(table, here, capsys):
    assert main(["fit", table, "--law", "isoflop", "--replicates", "0", "--out", "report"]) == 0

    assert "alert(1)" in printed(capsys).out
    assert_page_is_harmless(here / "report" / "README.md")
    assert not CONTROL.search((here / "report" / "summary.txt").read_text())
    for figure in (here / "report").glob("*.svg"):
        assert "<script" not in figure.read_text()


def test_plan(table, here, capsys):
    assert main(["plan", table, "--budget", "1e20", "--law", "isoflop", "--replicates", "0"]) == 0

    printed(capsys)
    (page,) = (here / "plans").glob("*/README.md")
    assert_page_is_harmless(page)


def test_sweeps_and_listings(here, capsys):
    planned = PlannedRun(
        run="0123456789ab",
        dir="fam/0123456789ab",
        flops_planned=1e12,
        n_params_planned=1e5,
        n_params=100_000,
        n_tokens_planned=1.6e6,
        n_tokens=1_600_000,
        n_steps=60,
        flops=1e12,
        seed=0,
    )
    manifest = SweepManifest("fam", "d", "total", HOSTILE, HOSTILE, None, "name: fam\n", 1, (planned,))
    manifest.write(here / "runs")
    (here / "runs" / "fam" / "0123456789ab").mkdir()
    (here / "runs" / "fam" / "0123456789ab" / "spec.yaml").write_text('a: "\\e[31m"\n')
    (here / "runs" / "fam" / "ffffffffffff").mkdir()
    (here / "runs" / "fam" / "ffffffffffff" / "spec.yaml").write_text('"\\e[1m": "\\e[31m"\n')

    for argv in (["runs"], ["runs", "fam"], ["runs", "--all"], ["clean", "fam", "--dry-run"]):
        assert main(argv) == 0, argv
        printed(capsys)


def test_a_sweep_file(here, capsys):
    quoted = HOSTILE.replace("\\", "\\\\").replace("\x1b", "\\e").replace("\x07", "\\a").replace('"', "")
    assert main(["sweep", "--example"]) == 0
    path = here / "sweeps" / "isoflop.yaml"
    head, _, rest = path.read_text().partition("question: >")
    path.write_text(head + f'question: "{quoted}"\n' + rest[rest.index("prediction") :], encoding="utf-8")

    assert main(["sweep", str(path), "--set", f"recipe.{IN_NAME}=1"]) == 2
    assert main(["data", str(path), "--set", f'name="{quoted}"']) == 2
    said = printed(capsys).err
    assert "the character U+001B" in said  # refused where the file is read
    assert f"{path}:4" in said

    without_controls = quoted.replace("\\e", "").replace("\\a", "")
    path.write_text(
        head + f'question: "{without_controls}"\n' + rest[rest.index("prediction") :], encoding="utf-8"
    )
    assert main(["sweep", str(path), "--set", "recipe.seq_len=many"]) == 2
    assert "seq_len" in printed(capsys).err


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_of_every_command(name, here, capsys):
    for argv in ([name, IN_NAME], [name, f"--{IN_NAME}"], [name, "a", IN_NAME, IN_NAME]):
        if name in {"ui", "sync", "simulate"} and argv[1] != f"--{IN_NAME}":
            continue  # they take such a name as a place to write, or start a server
        assert status_of(argv) in {1, 2}
        assert printed(capsys).err


def test_a_file_name_that_is_not_utf8(here, capsys):
    name = os.fsdecode(b"caf\xe9.csv")

    assert main(["fit", name]) == 2
    assert main(["sweep", name.replace("csv", "yaml")]) == 2
    assert "caf\N{REPLACEMENT CHARACTER}" in printed(capsys).err


def test_a_name_cannot_forge_a_line_of_an_error(here, capsys):
    assert main(["fit", "a\n  where: nowhere\n  fix:   rm -rf\n.csv"]) == 2

    assert len(printed(capsys).err.splitlines()) == 3


def test_what_a_person_is_shown_and_asked(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or "a")
    echo(f"first\n{HOSTILE}")

    assert ask(HOSTILE) == "a"
    assert "first\n" in printed(capsys).out
    assert not CONTROL.search(asked[0])


def test_a_dollar_in_a_name_is_a_dollar(here):
    """Matplotlib would read it as mathematics and refuse what is none."""
    import matplotlib

    from scalelab.report.plots.plot_style import canvas, styled

    def draw():
        figure, axes = canvas((3.0, 2.0))
        np.ravel(axes)[0].set_title(HOSTILE.replace("\x1b", "").replace("\x07", ""))
        return figure

    matplotlib.use("agg")
    styled(draw)().savefig(here / "x.png")
    assert (here / "x.png").stat().st_size > 0


def test_a_note_is_one_line_as_it_was_written(capsys):
    text = f"left out: a:cat:b [red]x {'words ' * 40}{HOSTILE}\nmore"

    note(text)

    (line,) = printed(capsys).err.splitlines()
    assert line.startswith("left out: a:cat:b [red]x words words")
    assert line.endswith("more")
