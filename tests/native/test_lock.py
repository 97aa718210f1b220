"""The lock that no exception leaves taken."""

from __future__ import annotations

import threading
from collections import deque
from typing import NoReturn

import pytest

from hermes.native.api import Lock, together


def refuse() -> NoReturn:
    pytest.fail("the lock was not to be had")


def test_a_hold_that_nobody_entered_is_let_go():
    """A call that is interrupted between taking the lock and its ``with`` leaves it free, and whole."""
    lock = Lock()

    lock.hold(0)

    assert lock.free
    assert not lock.mine
    assert not lock.torn


@pytest.mark.parametrize(("error", "torn"), [(KeyError, True), (ValueError, False)])
def test_an_exception_tears_unless_it_is_clean(error: type[Exception], torn: bool):
    """The lock is free behind any exception, and torn behind those it was not told of."""
    calls: list[str] = []
    lock = Lock(lambda: calls.append("tidy"), deque(), (ValueError,))

    with pytest.raises(error), lock.hold(-1) or refuse():
        raise error

    assert (lock.mine, lock.torn) == (False, torn)
    lock.hold(0)
    assert calls == (["tidy"] if torn else [])


@pytest.mark.parametrize("spare", [True, False])
def test_what_ends_a_wait_has_touched_nothing(spare: bool):
    """An exception that came while the lock was let go of tears nothing, where that is known."""
    lock = Lock()

    with pytest.raises(KeyError), lock.hold(-1) or refuse(), lock.away(None, spare):
        raise KeyError

    assert lock.free
    assert lock.torn is not spare


def test_a_thread_does_not_wait_for_itself():
    """A thread that has the lock is refused at once, or enters again if it wants to."""
    lock = Lock()

    with lock.hold(-1) or refuse():
        assert lock.hold(-1) is None
        with lock.hold(-1, True) or refuse():
            assert lock.mine
        assert lock.mine

    assert not lock.mine


def test_another_thread_waits_as_long_as_it_may():
    """None after the time-out; the lock as soon as it is let go."""
    lock = Lock()
    got: list[bool] = []

    def take() -> None:
        with lock.hold(-1) or refuse():
            got.append(lock.mine)

    with lock.hold(-1) or refuse():
        late: list[object] = []
        thread = threading.Thread(target=lambda: late.append(lock.hold(1_000_000)))
        thread.start()
        thread.join()
        assert late == [None]
        thread = threading.Thread(target=take)
        thread.start()
        assert got == []
    thread.join(30)

    assert got == [True]


def test_what_is_pending_is_done_before_the_lock_is_had():
    """``tidy`` is called for it, and its exception lets the lock go."""
    pending: deque[int] = deque([1])
    lock = Lock(pending.popleft, pending, ())

    with lock.hold(0) or refuse():
        assert not pending

    def fail() -> None:
        raise KeyError

    pending.append(1)
    lock = Lock(fail, pending, ())
    with pytest.raises(KeyError):
        lock.hold(0)
    assert lock.free


def test_together_calls_one_after_the_other():
    """Functions and their arguments take turns; the first exception ends it."""
    found: list[int] = []

    together(found.append, (1,), found.extend, ([2, 3],))

    assert found == [1, 2, 3]
    with pytest.raises(IndexError):
        together(found.pop, (9,), found.clear, ())
    with pytest.raises(TypeError):
        together(found.append)
    assert found == [1, 2, 3]
