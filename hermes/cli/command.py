"""The shape all commands share: worked examples, exit codes, and errors told as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from hermes.cli.exits import MEANINGS, ExitCode, reported

Example = tuple[str, str]
"""Pair of what the example does and the line to type."""

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(click.Command):
    """A click command with examples and exit codes, which ``--help`` shows.

    ``logs``: it runs code that may log, which goes to stderr.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[Example] = (),
        exits: dict[ExitCode, str] | Sequence[ExitCode] = (),
        logs: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("context_settings", SETTINGS)
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.logs = logs
        named = exits if isinstance(exits, dict) else {code: MEANINGS[code] for code in exits}
        always = {code: MEANINGS[code] for code in (ExitCode.OK, ExitCode.USAGE)}
        self.exits: dict[ExitCode, str] = dict(sorted({**always, **named}.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit codes below the options."""
        if self.examples:
            with formatter.section("Examples"):
                for what, line in self.examples:
                    formatter.write(f"  # {what}\n")
                    formatter.write("".join(f"  {part}\n" for part in line.splitlines()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), text) for code, text in self.exits.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors become a sentence and an exit code."""
        if self.logs:
            from hermes.cli.loglines import log_to_stderr

            log_to_stderr()
        with reported(as_json=bool(ctx.params.get("as_json"))):
            return super().invoke(ctx)
        return None


def closest(name: str, known: Sequence[str]) -> str:
    """`` did you mean ...?`` with the nearest of ``known``, or nothing."""
    import difflib

    found = difflib.get_close_matches(name, known, n=1)
    return f"  Did you mean {found[0]!r}?" if found else ""
