"""The words of the project: plain English, one name for one thing, every parameter documented."""

import ast
import itertools
import re
from collections import defaultdict

from source_tree import FILES, PACKAGE, ROOT, definitions, nodes, prose, tree

PHRASES = re.compile(
    r"\b(foretold|foretell\w*|told|said|tell|tells|speaks|speaker|mend|mends|mended|mending|miss|misses"
    r"|stranger(?:'s|s)?|anybody(?:'s)?)\b",
    re.IGNORECASE,
)
"""The first two rows of the table of words to replace."""
STANDARD = re.compile(r"\bask and tell\b|\bask/tell\b|`tell`|\btell\(|\.tell\b|\bcache miss(es)?\b")
"""The interface of designs that are told results is called so everywhere in the field."""

OLD_FILES = set(
    """
    paint painters drawing figures checks doubts numbers abreast drive the_only_driver watch live
    alive forks measured measuring comparing planned answer asking answering known choice recorded
    skilled battles verdicts twostep ruined sift told members structural limited demand use pace
    account judged starting order flow whole tensor_cut divide parts laid shown by_hand
    """.split()
)
OLD_FUNCTIONS = set(
    """
    paint painters drawing doubts abreast the_only_driver alive measuring comparing planned asking
    answering battles twostep sift told pace judged starting tensor_cut divide laid shown by_hand
    forget_gradient remember go_on to_the_end do bend slope pull at_rest look foretold foretell
    speaks write_down
    """.split()
)
OLD_CLASSES = set(
    """
    Learning Improving Valuing Preferring Collecting Grading Given Means Fits Said Ends Painters
    Battles Court Kept Told Shown
    """.split()
)


def named(path):
    return str(path.relative_to(PACKAGE))


def banned(text):
    return sorted({hit.group() for hit in PHRASES.finditer(STANDARD.sub("", text))})


def test_no_dialect_in_docstrings_messages_and_comments():
    found = [
        f"{named(path)}:{line}: {word}"
        for path in FILES
        for line, text in prose(path)
        for word in banned(text)
    ]

    assert not found


def test_no_dialect_in_the_readme_and_the_sweeps():
    texts = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "sweeps").rglob("*.yaml")]

    found = [
        f"{path.relative_to(ROOT)}:{i}: {word}"
        for path in texts
        for i, line in enumerate(path.read_text().split("\n"), 1)
        for word in banned(line)
    ]

    assert not found


def test_the_test_of_phrases_finds_them():
    assert banned("A stranger's table is told of its misses; missing values stay") == [
        "misses",
        "stranger's",
        "told",
    ]
    assert banned("designs that ask and tell") == []


def test_no_old_name_is_left():
    found = []
    for path in FILES:
        if path.stem in OLD_FILES and path.parent.name != "testing":  # suites have the names of registries
            found.append(named(path))
        for name, node in definitions(path):
            last = name.rsplit(".", 1)[-1].lstrip("_")
            if last in (OLD_CLASSES if isinstance(node, ast.ClassDef) else OLD_FUNCTIONS):
                found.append(f"{named(path)}:{node.lineno}: {name}")

    assert not found


def test_every_public_class_has_a_name_of_its_own():
    places = defaultdict(list)
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(named(path))

    assert not {name: where for name, where in places.items() if len(where) > 1}


def docstrings(path):
    """(line, name, first line) of every docstring, attribute docstrings included."""
    yield 1, "module", (ast.get_docstring(tree(path)) or "").split("\n")[0]
    for name, node in definitions(path):
        if text := ast.get_docstring(node):
            yield node.lineno, name, text.split("\n")[0]
    for node in nodes(path):
        body = getattr(node, "body", None)
        for before, after in itertools.pairwise(body if isinstance(body, list) else []):
            if (
                isinstance(before, ast.Assign | ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                name = before.target if isinstance(before, ast.AnnAssign) else before.targets[0]
                yield after.lineno, ast.unparse(name), after.value.value


RIDDLES = re.compile(r"^(Of |The same\b|That |Whether nobody|Who |Whose )")


def test_a_docstring_names_the_thing():
    found = [
        f"{named(path)}:{line}: {name}: {first}"
        for path in FILES
        for line, name, first in docstrings(path)
        if RIDDLES.match(first)
    ]

    assert not found


def undocumented(path):
    """(line, function, parameters without a description) of public functions of four or more."""
    functions: list[str] = []
    for name, node in definitions(path):
        if isinstance(node, ast.ClassDef) or any(part.startswith("_") for part in name.split(".")):
            continue
        if any(name.startswith(f"{outer}.") for outer in functions):
            continue  # inside a function, so not public
        functions.append(name)
        a = node.args
        names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]
        if len(names) < 4:
            continue
        text = ast.get_docstring(node) or ""
        if re.match(r"See [A-Z`]", text):  # an implementation; the base documents it
            continue
        section = re.split(r"\n(?:Raises|Returns|Yields):", text.partition("Args:")[2])[0]
        if missing := [x for x in names if not re.search(rf"\b{x}\b[^:\n]*:", section)]:
            yield node.lineno, name, missing


def test_many_parameters_are_documented():
    """Public functions with four or more parameters document each of them."""
    found = [
        f"{named(path)}:{line}: {name} does not document {', '.join(missing)}"
        for path in FILES
        for line, name, missing in undocumented(path)
    ]

    assert not found
