"""``python -m hermes``: the same as the ``hermes`` command."""

from __future__ import annotations

from hermes.cli import main

if __name__ == "__main__":
    main()
