"""Holders of a client, and how long it lasts."""

from __future__ import annotations

import warnings

import pytest

import hermes


def test_what_was_made_from_a_client_goes_on_without_it(broker: hermes.Broker):
    """A publisher and a subscription keep what they share; it ends with the last of them, and says so."""
    client = hermes.connect(broker.url)
    subscription, publisher = client.subscribe("a"), client.publisher("a")

    with warnings.catch_warnings(record=True) as early:
        warnings.simplefilter("always")
        del client
        publisher.send(b"1")
        publisher.flush()
        received = subscription.receive(60)
        subscription.close()
        publisher.close()
        del publisher
    with pytest.warns(ResourceWarning, match=f"client of {broker.url} was not closed"):
        del subscription

    assert received.payload == b"1"
    assert early == []


def test_a_client_that_was_closed_says_nothing(broker: hermes.Broker):
    """Closing through the client ends it for everything made from it."""
    client = hermes.connect(broker.url)
    publisher = client.publisher("a")
    client.close()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del client
        with pytest.raises(hermes.HermesError, match="closed"):
            publisher.send(b"1")
        del publisher

    assert said == []


def test_a_client_that_could_not_connect_says_nothing():
    """There is nothing to close then."""
    with warnings.catch_warnings(record=True) as said, pytest.raises(hermes.ConnectFailed):
        hermes.connect("inproc://nobody", timeout=1)

    assert said == []
