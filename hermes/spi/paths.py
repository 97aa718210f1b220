"""Paths that a URL or a configuration names, as files of this machine.

Part of the SPI: storages say the same of the same mistake.  Makes and opens nothing.
"""

from __future__ import annotations

from pathlib import Path

from hermes.errors import InvalidUrl


def path_of(text: str, *, url: str) -> Path:
    """The absolute path that ``text`` stands for, ``~`` and ``~user`` replaced; ``url`` is where it
    stands, for errors.

    Raises:
        InvalidUrl: there is no such user, nobody knows where the home directory is, the working
        directory has gone, or no file can have that name.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        user = Path(text).parts[0]
        whose = "this user" if user == "~" else f"a user {user[1:]!r}"
        raise InvalidUrl(
            f"{url}: {text!r} cannot be found: the system knows no home directory of {whose}; name "
            "a directory, as in mmap:/var/lib/hermes, or set HOME"
        ) from error
    if "\0" in str(path):
        raise InvalidUrl(f"{url}: {text!r} is no file's name: it has a zero byte")
    try:
        return path.absolute()
    except OSError as error:
        raise InvalidUrl(
            f"{url}: {text!r} begins in the working directory, which has gone "
            f"({error.strerror}): change into another, or name an absolute path"
        ) from error
