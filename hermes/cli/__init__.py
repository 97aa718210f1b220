"""The ``hermes`` command.  One command per file; nothing heavy is imported before a command needs
it.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    from hermes.cli.app import app

    app(prog_name="hermes")
