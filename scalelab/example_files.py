"""Example files of the commands that read a YAML file: where they belong, and how to get them.

They come with the package (scalelab/examples/, copies of files in sweeps/: a link is no file once a checkout has
been packed, mailed or unpacked elsewhere), so a message may name one only where it is there, and otherwise names
the command that writes it.

Only the standard library and errors are imported.
"""

from pathlib import Path

from scalelab.errors import ConfigError, RunError

SHIPPED = Path(__file__).with_name("examples")
EXAMPLE_FILES = {
    "sweep": "sweeps/isoflop.yaml",
    "data": "sweeps/isoflop.yaml",
    "check-recipe": "sweeps/isoflop.yaml",
    "tune": "sweeps/tune.yaml",
    "posttrain": "sweeps/posttrain/assistant.yaml",
    "eval": "sweeps/eval/compared.yaml",
}
"""Example file of each command, relative to the working directory."""
EXTENDED = {"tune": "sweep"}
"""Command whose example file that of another one extends: it is written too, where there is none."""


def missing_examples(text: str) -> list[str]:
    """Return the example files that a text names and that are not here."""
    return [
        name for name in dict.fromkeys(EXAMPLE_FILES.values()) if name in text and not Path(name).exists()
    ]


def first_command(command: str) -> str:
    """Return a command that works as it stands: on the example file if it is here, or to write it."""
    name = EXAMPLE_FILES[command]
    return f"scalelab {command} {name if Path(name).exists() else '--example'}"


def write_example(command: str) -> Path:
    """Write the example file of a command and return its path; an equal file is kept.

    Raises:
        ConfigError: Another file has its path.
        RunError: It cannot be written.
    """
    if command in EXTENDED and not Path(EXAMPLE_FILES[EXTENDED[command]]).exists():
        write_example(EXTENDED[command])
    path = Path(EXAMPLE_FILES[command])
    text = (SHIPPED / path.name).read_text(encoding="utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            raise ConfigError(
                f"{path} is there already and is not the example as it is shipped",
                where=str(path.resolve()),
                fix=f"use it: scalelab {command} {path}; or move it away and run the command again",
            ) from None
    except OSError as error:
        raise RunError(
            f"the example cannot be written: {error.strerror}",
            where=str(path.resolve()),
            fix="change to a directory in which you may write",
        ) from None
    return path


def given_file(path: Path | None, command: str) -> Path:
    """Return the file that a command was given.

    Args:
        path: The file; None where none was given.
        command: Name of the command.

    Raises:
        ConfigError: No file was given, or it is an example file that is not here.
    """
    example = EXAMPLE_FILES[command]
    if path is not None and (path != Path(example) or path.exists()):
        return path
    if Path(example).exists():
        fix = f"name one, such as scalelab {command} {example}"
    else:
        fix = f"write the example to {example}: scalelab {command} --example; or name a file that is there"
    problem = "no file is given" if path is None else f"there is no file {str(path)!r}"
    raise ConfigError(problem, where=f"scalelab {command}, in {Path.cwd()}", fix=fix)
