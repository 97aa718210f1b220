"""docs/testing-plugins.md says what the code does.

Run as a program it writes the list of checks again.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hermes.net.interception import EXAMPLES, Interception
from hermes.testing import plugin, storage, transport
from hermes.testing.contract import BaseContract

pytestmark = pytest.mark.slow

PLACE = Path(__file__).parents[2] / "docs" / "testing-plugins.md"
PAGE = PLACE.read_text()
KITS = {"A transport": transport, "A storage": storage, "A plugin": plugin}
"""Section of the page to the suite it is about."""
LIST = re.compile(r"(?<=### What is checked\n\n).*?(?=^## )", re.M | re.S)


def section(title: str) -> str:
    """One section of the page."""
    found = re.search(rf"^## {title}\n.*?(?=^## )", PAGE, re.M | re.S)
    assert found, title
    return found[0] + "## "


def checks(kit: ModuleType) -> str:
    """Checks of a kit, by group, from their docstrings."""
    return "".join(group(kit, name) for name in kit.GROUPS)


def group(kit: ModuleType, name: str) -> str:
    """One group: its module's title, and a line for each check."""
    module = importlib.import_module(f"{kit.__name__}.{name}")
    title = " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split())
    lines = [f"**{title.partition(':')[0]}**:{title.partition(':')[2]}\n"]
    for found in vars(module).values():
        if inspect.isclass(found) and found.__module__ == module.__name__ and hasattr(found, "kit"):
            members = [item for kind in reversed(found.__mro__) for item in vars(kind).items()]
            lines += [check(key, made) for key, made in members if key.startswith("test_")]
    return "\n".join(lines) + "\n\n"


def check(name: str, function: object) -> str:
    """One check: its name in words, what it needs, and its docstring."""
    needs = getattr(function, "needs", ())
    claimed = [f"needs `{claim}`" for claim in needs if not claim.startswith("!")]
    claimed += [f"without `{claim[1:]}`" for claim in needs if claim.startswith("!")]
    condition = f" ({', '.join(claimed)})" if claimed else ""
    words = name.removeprefix("test_").replace("_", " ")
    says = " ".join((inspect.getdoc(function) or "").replace("``", "`").split())
    return f"- *{words}*{condition}: {says}"


@pytest.mark.parametrize(("title", "kit"), KITS.items(), ids=KITS)
def test_the_list_of_checks_is_complete(title: str, kit: ModuleType) -> None:
    """Every check of the kit stands under its group, in the words of its docstring."""
    found = LIST.search(section(title))

    assert found
    assert found[0] == checks(kit), f"run `python {Path(__file__).name}` to write it anew"


@pytest.mark.parametrize("kit", KITS.values(), ids=KITS)
def test_every_check_says_what_must_hold(kit: ModuleType) -> None:
    """No check is without its sentence."""
    assert not re.search(r"^- \*.*: $", checks(kit), re.M)


@pytest.mark.parametrize(("title", "kit"), KITS.items(), ids=KITS)
def test_the_attributes_are_those_of_the_class(title: str, kit: ModuleType) -> None:
    """Each has a row with its default."""
    contract = importlib.import_module(f"{kit.__name__}.contract").Contract
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w*) ?\| ", section(title), re.M))
    own = {*inspect.get_annotations(contract), *inspect.get_annotations(BaseContract)}

    derived = {"kit", "url"} if "name" in own else {"kit"}

    assert set(documented) | derived == own
    for name, default in documented.items():
        if default not in ("", "none"):
            assert f"{getattr(contract, name):g}" == default


@pytest.mark.parametrize(("title", "kit"), KITS.items(), ids=KITS)
def test_the_example_collects_the_suite(title: str, kit: ModuleType, tmp_path: Path) -> None:
    """The three lines are enough for pytest to find every check."""
    (example,) = re.findall(r"```python\n(from .*?)```", section(title), re.S)
    (tmp_path / "test_mine.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-c", "/dev/null", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    for name in re.findall(r"^- \*(.*?)\*", checks(kit), re.M):
        assert f"TestMine::test_{name.replace(' ', '_')}" in done.stdout


def test_the_table_of_faults_is_complete() -> None:
    """Every fault has a row, with the example that its error message shows and its default."""
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+?) \|", PAGE, re.M)
    defaults = {
        field.name: "none" if field.default is None else f"`{field.default}`"
        for field in dataclasses.fields(Interception)
    }

    assert {name: example for name, example, _ in rows} == EXAMPLES
    assert {name: default for name, _, default in rows} == defaults


if __name__ == "__main__":
    for heading, suite in KITS.items():
        before = section(heading)
        PAGE = PAGE.replace(before, LIST.sub(lambda _, suite=suite: checks(suite), before))
    PLACE.write_text(PAGE)
