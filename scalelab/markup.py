"""Text from names and data made safe to show: on a terminal, in Markdown.

Control characters (C0, C1, DEL) and those that reorder or hide text (bidirectional controls,
zero-width characters other than combining marks) are replaced by U+FFFD: a name of a run or a cell
of a table can carry escape sequences. Markdown is shown by MLflow with raw HTML allowed, so `<`,
`>` and `&` become entities there, and the marks of Markdown are preceded by a backslash.
"""

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MARKS = re.compile(r"([\\`*_{}\[\]#|~$])")
LINE_START = re.compile(r"^(\s*)([-+=]|\d+[.)])(?=\s|$|[-=])")


def printable(text: str, *, keep_lines: bool = False) -> str:
    """Return the text with every character that is not safe to show replaced.

    Args:
        text: Any text, as it was read from a file or a table.
        keep_lines: Whether line ends stay; otherwise each becomes a space. Tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    out = []
    for c in text.replace("\r\n", "\n"):
        if c == "\n":
            out.append("\n" if keep_lines else " ")
        elif c == "\t":
            out.append(" ")
        elif unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            out.append(REPLACEMENT)
        else:
            out.append(c)
    return "".join(out)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it stands."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = MARKS.sub(r"\\\1", text)
    start = LINE_START.match(text)
    if start is None:
        return text
    mark = start.group(2)
    escaped = f"\\{mark}" if len(mark) == 1 else f"{mark[:-1]}\\{mark[-1]}"
    return start.group(1) + escaped + text[start.end() :]
