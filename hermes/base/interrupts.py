"""Exceptions that come out of a signal handler in the middle of a call of the system.

A handler may raise any exception: ``TimeoutError`` for an alarm, most of all, which is an ``OSError``.
Where one is awaited of a call, a handler's must go on to the program instead.  Imports nothing of
Hermes.
"""

from __future__ import annotations


def let_pass(error: BaseException) -> None:
    """Raise ``error`` again if it did not come out of the call itself.

    For the ``except`` of a ``try`` that holds calls implemented in C and nothing else: what those raise
    has no frame of Python's below, what a signal handler raised has the handler's.
    """
    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        raise error
