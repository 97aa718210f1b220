"""Log lines of a command on stderr: on one line each, without secrets, and never waited for.

A broker whose log goes into a pipe that nobody empties must serve on: lines that the pipe has no
room for are counted, and the next one says how many were lost.
"""

from __future__ import annotations

import logging
import sys

from hermes.base.shown import printable, redacted_prose
from hermes.cli.terminal import OFFER_BYTES, writable


class LogLines(logging.Handler):
    """Writes records to stderr as they are, a traceback below its message."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lost = 0

    def format(self, record: logging.LogRecord) -> str:
        """The message on one line; of an exception a line for each of its traceback."""
        lines = [record.getMessage()]
        if record.exc_info:
            formatter = logging.Formatter()
            lines += formatter.formatException(record.exc_info).split("\n")
        return "\n".join(printable(redacted_prose(line), tabs=True) for line in lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or count it as lost."""
        try:
            text = self.format(record) + "\n"
            for part in self._parts(text):
                if not self._room():
                    self._lost += 1
                    return
                sys.stderr.write(part)
                sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it any more
            self._lost += 1
        except Exception:  # a record of a plugin's that cannot be formatted
            self.handleError(record)

    def _parts(self, text: str) -> list[str]:
        if self._lost and self._room():
            text = f"{self._lost} log lines were lost: nobody read them\n{text}"
            self._lost = 0
        step = OFFER_BYTES // 4  # characters of at most four bytes
        return [text[first : first + step] for first in range(0, len(text), step)]

    def _room(self) -> bool:
        try:
            return writable(sys.stderr.fileno(), 0)
        except (OSError, ValueError):  # a test's buffer has no descriptor
            return True


def log_to_stderr() -> None:
    """Have what Hermes logs written to stderr, warnings and worse."""
    logger = logging.getLogger("hermes")
    if not any(isinstance(handler, LogLines) for handler in logger.handlers):
        logger.addHandler(LogLines())
