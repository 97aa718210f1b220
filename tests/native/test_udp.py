"""The udp transport's C under sanitizers, beside what the fuzz target feeds it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.native.conftest import RunC, Sanitizer


def test_trains_of_very_many_pieces(run_c: RunC) -> None:
    """However small the pieces, a train never has more than a system call takes, and loses none."""
    said = run_c("udp_pieces.c")

    assert said == "at most 1024 pieces\n"


@pytest.mark.parametrize("error", [errno.ENETUNREACH, errno.EPERM, errno.EINVAL])
def test_a_route_that_fails_is_one_sessions_matter(run_c: RunC, error: int) -> None:
    """While nothing can be sent to one peer, the others are served; it goes on when it can."""
    assert run_c("udp_routes.c", str(error)) == "all were served\n"


@pytest.mark.parametrize("what", ["large", "device"])
def test_a_way_that_takes_no_trains_is_one_sessions_matter(run_c: RunC, what: str) -> None:
    """A path that refuses large datagrams, or trains, changes what is sent to one peer only."""
    assert run_c("udp_routes.c", what) == "all were served\n"


def test_a_full_socket_is_shared(run_c: RunC) -> None:
    """The session that filled the socket is the last to be tried when it has room again."""
    assert run_c("udp_routes.c", "full") == "all were served\n"


def test_a_full_socket_is_shared_with_a_group(run_c: RunC) -> None:
    """However much is cast, the sessions have their turns at a socket that it fills."""
    assert run_c("udp_routes.c", "cast") == "all were served\n"


@pytest.mark.parametrize("what", [("bytes", "1000000"), ("messages", "30000")], ids=" ".join)
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_threads_share_a_channel_until_after_its_end(
    run_c: RunC, sanitizer: Sanitizer, what: tuple[str, str]
) -> None:
    """Threads that send (by themselves, or a flusher's for them), receive and look at a channel see
    no race, nor freed memory once it is closed."""
    assert run_c("udp_threads.c", *what, sanitizer=sanitizer) == "all came back\n"


@pytest.mark.parametrize("repair", ["all", "one"])
def test_only_receivers_with_a_session_are_answered(run_c: RunC, repair: str) -> None:
    """A listener that casts repeats what its sessions call for, and sends nothing for others."""
    assert run_c("udp_cast.c", repair) == "only who may was answered\n"


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_threads_share_a_channel_beside_a_group(run_c: RunC, sanitizer: Sanitizer) -> None:
    """Joining, selecting, leaving, waiting and looking race with nothing, and every batch comes in
    order under loss."""
    assert run_c("udp_group_threads.c", sanitizer=sanitizer) == "all came back\n"


def test_what_a_native_call_leaves_is_reported_again(run_c: RunC) -> None:
    """Input that the broker's native round did not take is not forgotten, though nothing follows."""
    assert run_c("udp_medium.c") == "nothing was left behind\n"
