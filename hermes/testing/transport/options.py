"""URL and options: what a URL may say is known, documented, and checked before anything happens."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hermes.errors import InvalidUrl
from hermes.net.interception import EXAMPLES
from hermes.spi.options import describe_options
from hermes.spi.transport import Transport
from hermes.spi.url import Url, parse_url
from hermes.testing.contract import needs, raises
from hermes.testing.kernel import EchoKernel
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import Stage, with_options

UNKNOWN = "no-such-option"
DIAL_NS = 1_000_000_000
FreeUrl = Callable[..., Url]


def misspelt(name: str) -> str:
    """``name`` with its last letter doubled."""
    return name + name[-1]


class OptionsContract(Contract):
    """The listener's and the client's URL."""

    def test_an_unknown_option_of_a_listener_is_refused(
        self, transport: Transport, free_url: FreeUrl, kernel: EchoKernel
    ) -> None:
        """listen() raises InvalidUrl and names the closest option there is."""
        sentence = "Transport.listen: an option that does not exist raises InvalidUrl"
        with raises(InvalidUrl, sentence, match=UNKNOWN):
            transport.listen(free_url(**{UNKNOWN: "1"}), kernel)
        for option in msgspec.structs.fields(transport.listen_options):
            wrong = misspelt(option.encode_name)
            with raises(InvalidUrl, sentence, match=f"did you mean '{option.encode_name}'"):
                transport.listen(free_url(**{wrong: "1"}), kernel)

    def test_an_unknown_option_of_a_client_is_refused(
        self, transport: Transport, free_url: FreeUrl
    ) -> None:
        """dial() raises InvalidUrl, and does not try to connect first."""
        sentence = (
            "Transport.dial: an option that does not exist raises InvalidUrl, before anything is "
            "connected to"
        )
        with raises(InvalidUrl, sentence, match=UNKNOWN):
            transport.dial(free_url(**{UNKNOWN: "1"}), DIAL_NS)
        for option in msgspec.structs.fields(transport.dial_options):
            wrong = misspelt(option.encode_name)
            with raises(InvalidUrl, sentence, match=f"did you mean '{option.encode_name}'"):
                transport.dial(free_url(**{wrong: "1"}), DIAL_NS)

    def test_an_ill_typed_option_is_refused(
        self, transport: Transport, free_url: FreeUrl, kernel: EchoKernel
    ) -> None:
        """A value that is none of the option's type raises InvalidUrl, at both ends."""
        for option in describe_options(transport.listen_options):
            if "text" not in option.values:
                with raises(InvalidUrl, f"Transport.listen: {option.name}=?! is ill typed"):
                    transport.listen(free_url(**{option.name: "?!"}), kernel)
        for option in describe_options(transport.dial_options):
            if "text" not in option.values:
                with raises(InvalidUrl, f"Transport.dial: {option.name}=?! is ill typed"):
                    transport.dial(free_url(**{option.name: "?!"}), DIAL_NS)

    def test_every_option_is_documented(self, transport: Transport) -> None:
        """Each field of the option structs has a docstring below it."""
        for kind in (transport.listen_options, transport.dial_options):
            silent = [option.name for option in describe_options(kind) if not option.text]
            assert not silent, f"{kind.__name__} does not say what {silent} mean"

    def test_every_option_may_be_given_its_default(
        self, transport: Transport, free_url: FreeUrl, kernel: EchoKernel
    ) -> None:
        """Writing down what holds anyway changes nothing."""
        for option in describe_options(transport.listen_options):
            if option.default not in (None, "none"):
                transport.listen(free_url(**{option.name: str(option.default)}), kernel).close()

    def test_the_url_is_understood_again(self, stage: Stage) -> None:
        """The URL that the agent reports survives being parsed and printed, and names the
        transport."""
        url = stage.agent.url

        assert str(parse_url(url)) == url
        assert parse_url(url).scheme == parse_url(self.url).scheme

    def test_port_0_is_resolved(self, make_stage: Callable[..., Stage]) -> None:
        """Each listener gets an address of its own, which the URL has and which can be dialled."""
        first, second = make_stage(), make_stage()

        assert first.agent.url != second.agent.url
        for stage in (first, second):
            assert stage.url.port != 0, "Agent.url: port 0 is replaced by the port the OS chose"
            client, _ = stage.connect()
            stage.exchange(client, b"here")

    def test_doors_are_urls_by_role(self, stage: Stage) -> None:
        """Further addresses, if there are any, have a name and are not empty."""
        for role, address in stage.agent.doors.items():
            assert role, "Agent.doors: a role has no name"
            assert address, f"Agent.doors: {role} has no address"

    @needs("datagrams")
    def test_both_ends_take_an_interception(
        self, transport: Transport, free_url: FreeUrl, kernel: EchoKernel
    ) -> None:
        """The option intercept knows every fault, and refuses what is none."""
        spec = ",".join(f"{name}={value}" for name, value in EXAMPLES.items())
        transport.listen(free_url(intercept=spec), kernel).close()

        sentence = "intercept: a fault that does not exist raises InvalidUrl"
        with raises(InvalidUrl, sentence, match="did you mean 'loss'"):
            transport.listen(free_url(intercept="los=1%"), kernel)
        with raises(InvalidUrl, sentence, match="did you mean 'loss'"):
            transport.dial(with_options(free_url(), intercept="los=1%"), DIAL_NS)
