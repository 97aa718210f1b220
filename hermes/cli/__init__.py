"""The ``hermes`` command.  One command per file; nothing heavy is imported before a command needs
it.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    try:
        from hermes.cli import terminal

        terminal.prepare()
        from hermes.cli.app import app
        from hermes.cli.exits import reported
    except KeyboardInterrupt:  # nothing is there yet that could say more
        raise SystemExit(130) from None
    with reported(as_json=False):
        app(prog_name="hermes")
