"""URLs: what they mean, what is refused, and that they come back as they were."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest

import hermes
from hermes.broker import Broker
from hermes.errors import InvalidUrl
from hermes.spi.units import ByteSize, Duration, byte_size, duration
from hermes.spi.url import Url, parse_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp", Url("tcp")),
        ("tcp://127.0.0.1:7601", Url("tcp", "127.0.0.1", 7601)),
        ("tcp://[::1]:0", Url("tcp", "::1", 0)),
        ("uring+tcp://host", Url("uring+tcp", "host")),
        ("inproc://Name", Url("inproc", "Name")),
        ("mmap:./data", Url("mmap", path="./data")),
        ("mmap:/var/lib/my data", Url("mmap", path="/var/lib/my data")),
        ("mmap:///abs", Url("mmap", path="/abs")),
        ("mmap:", Url("mmap")),
        ("a://h:1/p?x=1&y=%3F", Url("a", "h", 1, "/p", {"x": "1", "y": "?"})),
        ("a://u:p%40@h:1", Url("a", "h", 1, username="u", password="p@")),
    ],
)
def test_parts(text: str, expected: Url) -> None:
    """Each form gives its parts."""
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " tcp",
        "tcp://",
        "//h",
        "1x:",
        "t\ncp:",
        "a://h:99999",
        "a://h:x",
        "a://::1:5",
        "a://[::1",
        "a:?x=1&x=2",
    ],
)
def test_refusals(text: str) -> None:
    """Text that is no URL is refused."""
    with pytest.raises(InvalidUrl):
        parse_url(text)


@pytest.mark.parametrize(
    "text", ["tcp://127.0.0.1:7601", "tcp://[::1]:0", "mmap:./data?sync=always", "inproc://a"]
)
def test_text_comes_back(text: str) -> None:
    """str() of a URL is the URL."""
    assert str(parse_url(text)) == text


def test_credentials_never_come_back() -> None:
    """Neither str() nor repr() shows a password."""
    url = parse_url("a://user:secret@h:1")

    assert "secret" not in str(url) + repr(url)
    assert "user" not in str(url)


class Options(msgspec.Struct):
    size: ByteSize = ByteSize(1)
    wait: Duration = Duration(0)
    flag: bool = False
    count: int = 0


def test_options_are_typed() -> None:
    """Sizes, durations, booleans and numbers are read as people write them."""
    options = parse_url("a:?size=64KiB&wait=250ms&flag=yes&count=3").options(Options)

    assert options == Options(ByteSize(65536), Duration(250_000_000), True, 3)


class Bounded(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(le=9)] = 0
    fit: Literal["loose", "tight"] = "tight"


@pytest.mark.parametrize("value", ["10", "x"])
def test_a_wrong_value_is_blamed_on_its_option(value: str) -> None:
    """The message names the option and what it may be, as users write them."""
    with pytest.raises(InvalidUrl, match=r"option 'count': expected int") as caught:
        parse_url(f"a:?count={value}").options(Bounded)

    assert "$" not in str(caught.value)


def test_a_choice_says_what_there_is() -> None:
    """An option with few values names them all when it is given another."""
    with pytest.raises(InvalidUrl, match=r"option 'fit': expected loose or tight"):
        parse_url("a:?fit=snug").options(Bounded)


@pytest.mark.parametrize("scheme", ["tcp", "udp", "uring+tcp", "inproc"])
def test_a_listener_with_a_user_is_refused(scheme: str) -> None:
    """The URL would look as if the password kept others out; and it is not shown."""
    host = "name" if scheme == "inproc" else "127.0.0.1:0"

    with pytest.raises(InvalidUrl, match="--plugin 'tokens") as caught:
        Broker(listeners=[f"{scheme}://me:secret@{host}"], storage="memory:").open()

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("tcp://127.0.0.1:1?backlog=5", "backlog"),
        ("uring+tcp://127.0.0.1:1?insecure=yes", "insecure"),
        ("udp://127.0.0.1:1?rate=1MB", "rate"),
        ("udp://239.1.2.3:1?interface=127.0.0.1&ttl=2", "ttl"),
        ("inproc://nobody?connections=5", "connections"),
        ("zmq+tcp://127.0.0.1:1?users=f", "users"),
    ],
)
def test_an_option_of_listeners_in_a_clients_url(url: str, name: str) -> None:
    """The error says whose the option is and where to give it, before anybody is dialled."""
    with pytest.raises(InvalidUrl, match=rf"{name!r} is an option of listeners.*hermes serve"):
        hermes.connect(url, timeout=1)


def test_an_option_of_clients_in_a_listeners_url() -> None:
    """The error says so the other way round as well, before anything listens."""
    with pytest.raises(InvalidUrl, match=r"'server' is an option of clients.*hermes sub --url"):
        Broker(listeners=["zmq+tcp://127.0.0.1:0?server=KEY"], storage="memory:").open()


def test_an_option_that_nobody_has_is_not_taken_for_the_other_ends() -> None:
    """A misspelt option is answered as ever."""
    with pytest.raises(InvalidUrl, match="tcp has no option 'nodelai'; did you mean 'nodelay'"):
        hermes.connect("tcp://127.0.0.1:1?nodelai=yes", timeout=1)


@pytest.mark.parametrize("query", ["sise=1", "size=big", "wait=3", "flag=maybe", "count=x"])
def test_wrong_options_are_refused(query: str) -> None:
    """An unknown option, and a value of the wrong type, are errors."""
    with pytest.raises(InvalidUrl):
        parse_url(f"a:?{query}").options(Options)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        (4096, 4096),
        ("4096", 4096),
        ("10GiB", 10 << 30),
        ("1.5KiB", 1536),
        ("2 MB", 2_000_000),
    ],
)
def test_sizes(text: str | int, value: int) -> None:
    """Sizes with and without a unit."""
    assert byte_size(text) == value


@pytest.mark.parametrize("text", ["", "x", "10 parsecs", "-1", -1, True, "1e9"])
def test_sizes_refused(text: str | int) -> None:
    """A value that is no size is refused."""
    with pytest.raises(ValueError, match="is not a size"):
        byte_size(text)


@pytest.mark.parametrize(
    ("text", "value"), [("7d", 7 * 86400 * 10**9), ("250ms", 250_000_000), ("0", 0)]
)
def test_durations(text: str, value: int) -> None:
    """Durations have a unit."""
    assert duration(text) == value


@pytest.mark.parametrize("text", ["7", 7, "d", "7 years"])
def test_durations_refused(text: str | int) -> None:
    """A bare number is not a duration: of what unit?"""
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


def test_quantities_are_written_as_people_write_them() -> None:
    """str() picks the largest unit that divides."""
    assert [str(ByteSize(10 << 30)), str(ByteSize(1000))] == ["10GiB", "1000B"]
    assert [str(Duration(7 * 86400 * 10**9)), str(Duration(0))] == ["7d", "0"]


@pytest.mark.parametrize(
    "text",
    [
        "tcp://alice:s3cret@host:99999",
        "tcp://alice:s3cret@ho[st",
        "tcp://alice:s3:cret@host:x",
        "TCP://alice:s3cret@host",
        "tcp://alice:s3cret@host:1?a=1&a=2",
        "tcp://alice:s3@cret@host",
        "tcp://:s3cret@host:x",
        "tcp://alice:s3/cret@host",
        "tcp://alice:s3?cret@host",
    ],
)
def test_an_error_never_shows_a_password(text: str) -> None:
    """A URL that cannot be parsed is quoted without its password."""
    with pytest.raises(InvalidUrl) as caught:
        parse_url(text)

    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)
