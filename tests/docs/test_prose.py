"""Plain words: what users and engineers read names its subject and uses the field's words.

Documentation, help, error texts and public docstrings obey without exception.  Docstrings of other
modules may be listed in ``prose_allowed.toml``, whose lists only shrink: an entry that is no longer
needed fails the test.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import hermes
from hermes.cli.app import app
from hermes.wire.errorcodes import ERROR_CODES

ROOT = Path(__file__).parents[2]
ALLOWED = tomllib.loads((ROOT / "tests/docs/prose_allowed.toml").read_text())

EXPORTED: list[str] = vars(hermes)["__all__"]
PRODUCT = ("hermes", "transports", "plugins")
SHRINK = "take these out of tests/docs/prose_allowed.toml: they are no longer needed there"

HEADLESS = re.compile(
    r"(Who|Whoever|Whose|Whom|Of|It|Those|Likewise|That|The opposite)\b"
    r"|What(ever)?\b(?![^.]*\?)"  # a question may begin with it
    r"|Where\b(?![^.]*,)"  # "Where the disk is full, ...": a condition, not a noun
)
"""Openings of a first sentence that do not name its subject."""

RIDDLES = re.compile(
    r"\b("
    r"hand(s|ed|ing)? out|knock(s|ed|ing)?|let(s|ting)? in|cure[sd]?|anew|farewells?|seat(s|ed)?"
    r"|(?<!no )news|(is|are|was) over(?=[.,;:)]|$| and | when | before )"
    r"|whoever|whomever|he|him|his|himself"
    r"|(to|for|of|by|from|with) who|(and|or) who does( not)?"
    r")\b",
    re.I,
)
"""Metaphors for mechanisms, and programs spoken of as if they were persons."""

UNLISTED = (
    "hermes/spi/",
    "hermes/net/",
    "hermes/testing/",
    "hermes/errors.py",
    "hermes/__init__.py",
)
"""Paths whose docstrings are public: they cannot be on the list."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of prose and its place, as an editor finds it."""

    path: str
    line: int
    text: str

    def faults(self) -> list[str]:
        """One line for each rule that the text breaks."""
        plain = " ".join(re.sub(r"``[^`]*``|`[^`]*`", "`x`", self.text).split())
        found = [match[0] for match in [HEADLESS.match(plain.lstrip("`*_("))] if match]
        found += [match[0] for match in RIDDLES.finditer(plain)]
        return [f"{self.path}:{self.line}: {word!r} in {plain[:160]!r}" for word in found]


def sources(*folders: str) -> list[Path]:
    """The Python files below these folders."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts and "build" not in path.parts]


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def docstrings(path: Path) -> Iterator[Text]:
    """Docstrings of the module, of classes and functions, and of attributes (a text that stands
    alone behind an assignment)."""
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(parsed(path)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for index, item in enumerate(body):
            documents = index == 0 or isinstance(body[index - 1], ast.Assign | ast.AnnAssign)
            if not (documents and isinstance(item, ast.Expr)):
                continue
            if isinstance(item.value, ast.Constant) and isinstance(item.value.value, str):
                yield Text(name, item.lineno, item.value.value)


def raised(path: Path) -> Iterator[Text]:
    """Texts written in ``raise`` statements, a placeholder for each value."""
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from (Text(name, node.lineno, text) for text in literals(node.exc))


def literals(node: ast.AST) -> Iterator[str]:
    """The texts in an expression."""
    if isinstance(node, ast.JoinedStr):
        parts = [str(v.value) if isinstance(v, ast.Constant) else "`x`" for v in node.values]
        yield "".join(parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def paragraphs(path: Path) -> Iterator[Text]:
    """Paragraphs, list items and cells of tables of a page, without code."""
    name = path.relative_to(ROOT).as_posix()
    text = re.sub(
        r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), path.read_text(), flags=re.M | re.S
    )
    block: list[str] = []
    start = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if not line.strip() or re.match(r"\s*([-*]|\d+\.) |#|\||    ", line):
            if block:
                yield Text(name, start, " ".join(block))
            block = []
        if line.startswith("|"):
            yield from (
                Text(name, number, cell.strip()) for cell in line.split("|") if cell.strip()
            )
        elif line.startswith("#"):
            yield Text(name, number, "Heading: " + line.lstrip("# "))
        elif line.strip() and not line.startswith("    "):
            start = start if block else number
            block.append(re.sub(r"^\s*([-*]|\d+\.) ", "", line))


def helps() -> Iterator[Text]:
    """The help of every command and option."""
    pending: list[tuple[str, click.Command]] = [("hermes", app)]
    while pending:
        name, command = pending.pop()
        context = click.Context(command, info_name=name)
        texts = [command.help, command.epilog, command.get_short_help_str(200)]
        texts += [getattr(parameter, "help", None) for parameter in command.get_params(context)]
        yield from (Text(f"{name} --help", 0, text) for text in texts if text)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                loaded = command.get_command(context, child)
                assert loaded is not None
                pending.append((f"{name} {child}", loaded))


def public() -> Iterator[Text]:
    """Docstrings of the names that ``hermes`` exports, and of what users call on them."""
    for name in EXPORTED:
        thing = getattr(hermes, name)
        yield Text(f"hermes.{name}", 0, inspect.getdoc(thing) or "")
        if inspect.isclass(thing):
            ours = [kind for kind in thing.__mro__ if kind.__module__.startswith("hermes")]
            for member in sorted({member for kind in ours for member in vars(kind)}):
                if not member.startswith("_"):
                    text = inspect.getdoc(getattr(thing, member)) or ""
                    yield Text(f"hermes.{name}.{member}", 0, text)


def headers() -> Iterator[Text]:
    """Block comments of the public C headers: their contracts."""
    for path in sorted((ROOT / "hermes/native/include").glob("*.h")):
        text = path.read_text()
        for match in re.finditer(r"/\*(.*?)\*/", text, re.S):
            comment = re.sub(r"^ \* ?", "", match[1], flags=re.M)
            comment = re.sub(r"^\s*(hm_\w+\.h -- )?", "", comment)
            line = text.count("\n", 0, match.start()) + 1
            yield Text(path.relative_to(ROOT).as_posix(), line, comment)


def faults(texts: Iterable[Text]) -> list[str]:
    """The faults of all these texts."""
    return [fault for text in texts for fault in text.faults()]


def classes() -> dict[str, list[str]]:
    """Public class names, and the files that define each."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sources(*PRODUCT):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def nouns() -> set[str]:
    """Names that the glossary explains: public classes of ``hermes`` but errors, protocols of
    ``hermes.spi``, and ``hm_NOUN`` of headers and their types."""
    found = {
        name
        for name in EXPORTED
        if inspect.isclass(thing := getattr(hermes, name)) and not issubclass(thing, Exception)
    }
    for path in sources("hermes/spi"):
        for node in ast.walk(parsed(path)):
            bases = getattr(node, "bases", [])
            if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases):
                found.add(getattr(node, "name"))  # noqa: B009
    for path in (ROOT / "hermes/native/include").glob("*.h"):
        names = re.findall(r"^} (hm_\w+);|^typedef struct (hm_\w+)", path.read_text(), re.M)
        found |= {noun(name) for pair in names for name in pair if name} | {noun(path.stem)}
    return found


def noun(name: str) -> str:
    """The noun of a C name: ``hm_log`` of ``hm_log_status``."""
    return "_".join(name.split("_")[:2])


PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/changes").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain(page: Path) -> None:
    """Paragraphs, list items and cells of a page name their subject and use no metaphor."""
    assert faults(paragraphs(page)) == []


def test_help_is_plain() -> None:
    """The help of every command and option names its subject and uses no metaphor."""
    assert faults(helps()) == []


def test_error_texts_are_plain() -> None:
    """Texts in raise statements name their subject and use no metaphor."""
    assert faults(text for path in sources(*PRODUCT) for text in raised(path)) == []


def test_protocol_errors_are_plain() -> None:
    """The texts of the protocol's error codes name their subject and use no metaphor."""
    texts = [text for code in ERROR_CODES.values() for text in (code.meaning, code.cure)]

    assert faults(Text("hermes/wire/errorcodes.py", 0, text) for text in texts) == []


def test_public_docstrings_are_plain() -> None:
    """Docstrings of exported names and their members name their subject and use no metaphor."""
    assert faults(public()) == []


def test_header_contracts_are_plain() -> None:
    """Comments of the public C headers name their subject and use no metaphor."""
    assert faults(headers()) == []


def test_docstrings_are_plain() -> None:
    """Docstrings name their subject and use no metaphor, but in the modules that are listed."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sources(*PRODUCT, "benchmarks", "tests"):
        for fault in faults(docstrings(path)):
            found[fault.partition(":")[0]].append(fault)
    listed = set(ALLOWED["docstrings"])

    assert [fault for path in found if path not in listed for fault in found[path]] == []
    assert sorted(listed - set(found)) == [], SHRINK


def test_public_packages_are_not_listed() -> None:
    """Interfaces, tools for transports, test kits and errors have no entry on the list."""
    assert [path for path in ALLOWED["docstrings"] if path.startswith(UNLISTED)] == []


def test_a_class_name_is_defined_once() -> None:
    """A public class name has one definition in the product, but for the names that are listed."""
    twice = {name: paths for name, paths in classes().items() if len(paths) > 1}
    listed = set(ALLOWED["classes"])

    assert {name: paths for name, paths in twice.items() if name not in listed} == {}
    assert sorted(listed - set(twice)) == [], SHRINK


def test_public_nouns_are_in_the_glossary() -> None:
    """Each public class, protocol and C type has a row in the glossary."""
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs/glossary.md").read_text(), re.M)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert sorted(nouns() - explained) == []


@pytest.mark.parametrize(
    "text",
    [
        "What it has not.",
        "Of the oldest message kept.",
        "Where that lies.",
        "Likewise for what arrives.",
        "Bytes that whoever reads them gets.",
        "A receiver tells the sender that he is late.",
        "Wait until the session is over.",
        "Opened anew.",
    ],
)
def test_a_riddle_is_found(text: str) -> None:
    """The rules find sentences of the kind that they are for."""
    assert Text("page", 1, text).faults()


@pytest.mark.parametrize(
    "text",
    [
        "What is a stream?",
        "Where the disk is full, appends are refused.",
        "A message over the limit is refused.",
        "Say who may connect.",
        "The broker handed the frames to the log.",
    ],
)
def test_a_plain_sentence_is_not_found(text: str) -> None:
    """The rules leave sentences alone that name their subject."""
    assert Text("page", 1, text).faults() == []
