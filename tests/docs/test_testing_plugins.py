"""docs/testing-plugins.md says what the code does.

Run as a program it writes the list of checks anew.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

from hermes.intercept import EXAMPLES, Interception
from hermes.testing.transport import GROUPS
from hermes.testing.transport.contract import Contract

PLACE = Path(__file__).parents[2] / "docs" / "testing-plugins.md"
PAGE = PLACE.read_text()
CHECKS = re.compile(r"(?<=### What is checked\n\n).*?(?=^## )", re.M | re.S)


def checks() -> str:
    """What the transport kit checks, by group, from its docstrings."""
    return "".join(map(group, GROUPS))


def group(name: str) -> str:
    """One group: its module's title, and a line for each check."""
    module = importlib.import_module(f"hermes.testing.transport.{name}")
    title = " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split())
    lines = [f"**{title.partition(':')[0]}**:{title.partition(':')[2]}\n"]
    for found in vars(module).values():
        if (
            inspect.isclass(found)
            and issubclass(found, Contract)
            and found.__module__ == module.__name__
        ):
            for key, function in vars(found).items():
                if key.startswith("test_"):
                    lines.append(check(key, function))
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


def test_the_list_of_checks_is_complete() -> None:
    """Every check of the transport kit stands under its group, in the words of its docstring."""
    found = CHECKS.search(PAGE)

    assert found
    assert found[0] == checks(), f"run `python {Path(__file__).name}` to write it anew"


def test_every_check_says_what_must_hold() -> None:
    """No check is without its sentence."""
    assert not re.search(r"^- \*.*: $", checks(), re.M)


def test_the_attributes_are_those_of_the_class() -> None:
    """Each has a row with its default."""
    rows = re.findall(r"^\| `(\w+)` \| (\w*) ?\| [A-Z]", PAGE, re.M)
    documented = {name: default for name, default in rows if not hasattr(Interception(), name)}
    own = {name for name in Contract.__annotations__ if name != "kit"}

    assert set(documented) == own
    for name, default in documented.items():
        if default not in ("", "none"):
            assert f"{getattr(Contract, name):g}" == default


def test_the_example_collects_the_suite(tmp_path: Path) -> None:
    """The three lines are enough for pytest to find every check."""
    (example,) = re.findall(r"```python\n(from hermes.testing.transport.*?)```", PAGE, re.S)
    (tmp_path / "test_mine.py").write_text(example.replace("mine://", "tcp://"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-c", "/dev/null", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    for name in re.findall(r"^- \*(.*?)\*", checks(), re.M):
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
    PLACE.write_text(CHECKS.sub(lambda _: checks(), PAGE))
