"""Files that commands write where an option says: a regular one is replaced as a whole, a device or
FIFO is written to and stays what it is, and whatever cannot be written is refused before the work.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

import click


class OutputFile:
    """One place to write to; not opened before there is something to write."""

    def __init__(self, path: Path, option: str) -> None:
        """``option``: the option's name, for errors.

        Raises:
            click.BadParameter: it is a directory, socket or disk, or cannot be written.
        """
        self.path = path
        self._option = option
        try:
            self._target, self._special = self._look()
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error

    def remove(self) -> None:
        """Remove a regular file, one of an earlier run, say; a special one stays.

        Raises:
            click.BadParameter: it cannot be removed.
        """
        if not self._special:
            try:
                self._target.unlink(missing_ok=True)
            except OSError as error:
                raise self._refused(error.strerror or str(error)) from error

    def write(self, text: str) -> None:
        """Write ``text``: a program that sees a regular file sees all of it.  A FIFO that nobody
        reads yet is written once it is read.

        Raises:
            OSError: it cannot be written.
        """
        data = text.encode("utf-8", "backslashreplace")
        if not self._special:
            _replace(self._target, data)
        elif stat.S_ISFIFO(self._target.stat().st_mode):
            threading.Thread(target=self._feed, args=(data,), daemon=True).start()
        else:
            self._write_to(data)

    def read(self) -> str:
        """Return the text of a regular file; an empty one for a special file.

        Raises:
            OSError: it cannot be read.
        """
        return "" if self._special else self._target.read_text(encoding="utf-8")

    def _look(self) -> tuple[Path, bool]:
        """Return the path to write to, links followed, and whether a special file is there."""
        target = self.path
        for _ in range(40):  # as many links as the system follows
            if str(target).startswith(("/proc/", "/dev/fd/")):
                return self.path, self._check_special(self.path, "")  # a descriptor of ours
            if not target.is_symlink():
                break
            target = target.parent / target.readlink()
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if stat.S_ISREG(mode):
            parent = target.parent
            if not parent.is_dir() or not parent.stat().st_nlink:  # or it has been removed
                raise self._refused(f"{parent} is no directory")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise self._refused(f"{parent} is no directory of ours")
            return target, False
        what = {stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a disk"}
        return target, self._check_special(target, what.get(stat.S_IFMT(mode), ""))

    def _check_special(self, target: Path, refused: str) -> bool:
        if refused:
            raise self._refused(f"it is {refused}")
        if not os.access(target, os.W_OK):
            raise self._refused("it may not be written to")
        return True

    def _write_to(self, data: bytes) -> None:
        from hermes.cli.output import write_all

        descriptor = os.open(self._target, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def _feed(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # its reader has gone, or the FIFO
            self._write_to(data)

    def _refused(self, why: str) -> click.BadParameter:
        return click.BadParameter(f"{self.path} cannot be written: {why}", param_hint=self._option)


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
