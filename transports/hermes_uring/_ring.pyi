"""A ring of io_uring on liburing, as the binding's compiled module carries it.

One thread uses a ring: the one that prepares or enters first.  What is prepared happens at the next
:meth:`Ring.enter`, in order; if the submission queue is full meanwhile, it is submitted early.
"""

from typing import Any, final

ACCEPT: int
RECEIVE: int
READABLE: int
WRITABLE: int

Completion = tuple[Any, int, int, memoryview | None, bool]
"""Target, kind, result (``-errno`` if it failed), input of a RECEIVE, whether more will come."""

@final
class Ring:
    """A submission queue, a completion queue, and buffers for input."""

    operations: int
    """Operations under way: prepared or submitted, and not completed."""
    enters: int
    """System calls that submitted or waited."""
    overruns: int
    """Times the submission queue was full and was submitted early."""
    sends: int
    """Address of a ``struct hm_sends`` (``hm_sends.h``), which sends by this ring: until :meth:`close`,
    in the ring's thread."""
    together: int
    """Sends that left with others, by way of it."""

    def __new__(cls, library: str, entries: int, buffers: int, buffer_size: int) -> Ring:
        """``library``: path of a loaded shared object that exports liburing.  ``entries``: of the
        submission queue.  Input goes to ``buffers`` buffers of ``buffer_size`` bytes each, shared
        by all sockets; the two counts are powers of two.

        Raises:
            ImportError: the library lacks a function.
            OSError: the kernel refuses, or does not know what is needed.
        """

    def fileno(self) -> int:
        """A descriptor that becomes readable when something completes while signals are on."""

    def signal(self, on: bool, /) -> None:
        """Have the descriptor tell of completions from now on, or no more.

        Switching signals on, also again, forgets what was told: look once more with :meth:`enter`
        before waiting on the descriptor.
        """

    # Each returns a handle for `cancel`, good until the operation's last completion, and keeps a
    # reference to `target`.  Raises OSError if the kernel takes no more.

    def accept(self, fd: int, target: object, /) -> int:
        """Accept peers until cancelled; each completion's result is a non-blocking socket's
        descriptor."""

    def receive(self, fd: int, target: object, /) -> int:
        """Receive until cancelled, the end of input, or want of buffers (``-ENOBUFS``)."""

    def poll(self, fd: int, target: object, events: int, /) -> int:
        """Complete once, as soon as ``fd`` has one of ``events`` (of :mod:`select`): WRITABLE if
        POLLOUT is among them, else READABLE."""

    def cancel(self, handle: int, /) -> None:
        """End an operation; its last completion is ``-ECANCELED``, unless it was just ending."""

    def enter(self, timeout_ns: int, /) -> list[Completion]:
        """Submit what was prepared, wait at most ``timeout_ns`` (0: not at all, -1: until something
        happens), and return what has completed: all of it, or the first thousand or so.

        Makes no system call if there is nothing to submit and nothing to wait for.  Input is valid
        until the next call.

        Raises:
            OSError: the ring is another thread's, or the kernel does not keep its word.
        """

    def close(self) -> None:
        """End every operation, then the ring.  Idempotent."""
