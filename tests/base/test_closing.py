"""Objects that are made are noted to be ended, whatever comes meanwhile."""

from __future__ import annotations

import signal
import threading

import pytest

from hermes.base.closing import undisturbed


def test_a_signal_waits_until_what_was_made_is_noted() -> None:
    """SIGINT in the block is raised at its end, once, and afterwards at once as before."""
    noted = []

    def make() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            noted.append("made")

    with pytest.raises(KeyboardInterrupt):
        make()

    assert noted == ["made"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_nothing_is_changed_where_nobody_listens() -> None:
    """A signal that is ignored stays so, and a thread beside the main one has no say."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with undisturbed():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    failures = []

    def use() -> None:
        try:
            with undisturbed():
                pass
        except ValueError as error:  # only the main thread may set handlers
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

    assert failures == []
