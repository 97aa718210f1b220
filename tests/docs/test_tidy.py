"""Product code has no dead parts: every C function, module, function and class is reached from
other product code, or is public.

What is reached from tests alone is listed in :data:`EXCEPTIONS`, with its reason.  The list may
only shrink: an entry that is used, or gone, fails the test.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("hermes", "transports", "plugins")
"""Directories of the product's code; what other files do does not count as use."""

TEXT_MAX = 200
"""Characters of a string that may name a module to load: longer ones are prose."""

EXCEPTIONS = {
    # The rings: nothing is built on them yet.
    "hermes.native.rings",
    "hermes.native.rings.MpmcRing",
    "hermes.native.rings.SpscRing",
    "hm_spsc_pop_many",
    "hm_spsc_pop_word",
    "hm_spsc_push_word",
    # Message properties: nothing that a user calls sets or reads them yet.
    "hermes.native.properties",
    "hermes.native.properties.decode_properties",
    "hermes.native.properties.encode_properties",
    # Encoding in Python for tests, whose counterpart in C the product uses.
    "hermes.wire.codec.encode_control",
    # Observers and choices that tests and fuzzers hold the native code against.
    "hm_crc32c_select",
    "hm_topics_add",
    "hu_caster_end",
    "hu_caster_sent",
    "hu_receiver_heard",
    "hu_receiver_holes",
    "hu_sender_congestion",
    "hu_train_copy",
}

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_NAME = re.compile(r"\bh[muz]_\w+")
_CALLED = re.compile(r"\blib\.(\w+)")
_PROTOTYPE = re.compile(r"^(?:[a-z][\w ]*?[ *])?\*?(h[muz]_\w+)\(", re.MULTILINE)
_DECLARING = re.compile(r"^(?!return\b)[a-zA-Z_][\w *]*$")
_HOOKS = ("hookimpl", "hookspec", "fixture", "command")
"""Decorators whose functions are called by pluggy, pytest or click."""


@cache
def sources(suffix: str) -> dict[Path, str]:
    """The product's files that end in ``suffix``, C without its comments."""
    found = {}
    for place in PRODUCT:
        for path in sorted((ROOT / place).rglob(f"*{suffix}")):
            text = path.read_text()
            found[path] = text if suffix == ".py" else _COMMENT.sub("", text)
    return found


@cache
def modules() -> dict[str, ast.Module]:
    """The product's Python modules by their names."""
    found = {}
    for path, text in sources(".py").items():
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "hermes" else parts[1:]
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(text)
    return found


def c_uses(text: str) -> set[str]:
    """The names that C code uses other than by declaring or defining them."""
    return {
        name
        for line in text.splitlines()
        for match in _NAME.finditer(line)
        if (name := match[0]) and not _DECLARING.match(line[: match.start()])
    }


def idle_prototypes() -> set[str]:
    """Functions of C headers that no product code calls."""
    code = [*sources(".c").values(), *sources(".h").values()]
    used = set().union(*map(c_uses, code), *map(_CALLED.findall, sources(".py").values()))
    declared = {name for text in sources(".h").values() for name in _PROTOTYPE.findall(text)}
    return declared - used


def imported() -> set[str]:
    """Names of modules, and of what is in them, that some product code imports."""
    found: set[str] = set()
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def named_in_text() -> set[str]:
    """Words of the short strings of product code, which name modules that are loaded when needed."""
    words: set[str] = set()
    for tree in modules().values():
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and len(text) < TEXT_MAX:
                words.update(re.findall(r"[\w.]+", text))
    return words


def entry_points() -> set[str]:
    """Modules that the package's metadata names, and those that are run or loaded by their path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["project"]["entry-points"].values()
    named = {value.partition(":")[0] for group in groups for value in group.values()}
    build = project["tool"]["setuptools"].get("cmdclass", {}).values()
    named |= {value.rpartition(".")[0] for value in build}
    return named | {"hermes.__main__"}


def idle_modules() -> set[str]:
    """Modules that nothing imports, names or runs; a package counts as used if a part of it is."""
    used, words, pages = imported() | entry_points(), named_in_text(), _public()
    idle = set()
    for name in modules():
        reached = name in used or name in words or any(one.startswith(f"{name}.") for one in used)
        if not reached and not _is_command(name, words) and name not in pages:
            idle.add(name)
    return idle


def _is_command(name: str, words: set[str]) -> bool:
    """Whether a module is the one that ``hermes`` loads for a command, or ``hermes bench`` and its
    like for a command below it: ``bench_compare`` for ``compare``."""
    package, _, last = name.rpartition(".")
    return package == "hermes.cli" and not {last, last.rpartition("_")[2]}.isdisjoint(words)


def _decorated(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(
        any(hook in ast.unparse(decorator) for hook in _HOOKS) for decorator in node.decorator_list
    )


def _public() -> str:
    """The text of the documentation, whose names are public."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return "\n".join(page.read_text() for page in pages)


def definitions() -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """The functions and classes at the top of each module."""
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"{name}.{node.name}", node


def idle_definitions() -> set[str]:
    """Functions and classes at the top of a module that nothing in the product names."""
    used: set[str] = set()
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.ImportFrom):
                used.update(alias.name for alias in node.names)
    words = named_in_text()
    pages = _public()
    idle = set()
    for full, node in definitions():
        name = node.name
        known = name in used or name in words or name.startswith(("__", "pytest_"))
        if not known and not _decorated(node) and not re.search(rf"\b{name}\b", pages):
            idle.add(full)
    return idle


def test_nothing_is_dead() -> None:
    """Every C function of a header, module, function and class is used by product code, public, or
    an exception; and each exception is still one."""
    idle = idle_prototypes() | idle_modules() | idle_definitions()

    assert sorted(idle - EXCEPTIONS) == [], "delete it, use it, or document it as public"
    assert sorted(EXCEPTIONS - idle) == [], "used or gone: take it out of the list"


def test_what_only_tests_reach_is_found() -> None:
    """A function counts as used by a call or a reference, and not by its own declaration."""
    source = "int hm_a(void);\nint hm_a(void) {\n    return hm_b();\n}\nvoid *table = hm_c;\n"

    assert c_uses(source) == {"hm_b", "hm_c"}


def test_every_c_file_says_its_purpose() -> None:
    """A C file opens with a comment whose first line has its name and its purpose."""
    silent = [
        str(path.relative_to(ROOT))
        for place in PRODUCT
        for path in sorted((ROOT / place).rglob("*.c"))
        if not re.match(rf"/\* {path.name} -- \w", path.read_text())
    ]

    assert silent == []
