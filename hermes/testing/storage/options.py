"""URL and options: what a URL may say is known, documented, and checked before anything happens."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hermes.errors import InvalidUrl
from hermes.spi.options import describe_options
from hermes.spi.storage import Storage, StorageBackend
from hermes.spi.url import parse_url
from hermes.testing.contract import raises
from hermes.testing.storage.contract import Contract, Ground

UNKNOWN = "no-such-option"


class OptionsContract(Contract):
    """The URL of a place."""

    def test_an_unknown_option_is_refused(self, backend: StorageBackend, ground: Ground) -> None:
        """open() raises InvalidUrl, names the closest option there is, and makes nothing."""
        sentence = "StorageBackend.open: an option that does not exist raises InvalidUrl"
        with raises(InvalidUrl, sentence, match=UNKNOWN):
            backend.open(ground.url(**{UNKNOWN: "1"}))
        for option in msgspec.structs.fields(backend.options):
            wrong = option.encode_name + option.encode_name[-1]
            with raises(InvalidUrl, sentence, match=f"did you mean '{option.encode_name}'"):
                backend.open(ground.url(**{wrong: "1"}))
        assert not list(ground.directory.iterdir()), "a refused URL left something behind"

    def test_an_ill_typed_option_is_refused(self, backend: StorageBackend, ground: Ground) -> None:
        """A value that is none of the option's type raises InvalidUrl."""
        for option in describe_options(backend.options):
            if "text" not in option.values:
                with raises(InvalidUrl, f"StorageBackend.open: {option.name}=?! is ill typed"):
                    backend.open(ground.url(**{option.name: "?!"}))

    def test_every_option_is_documented(self, backend: StorageBackend) -> None:
        """Each field of the option struct has a docstring below it."""
        silent = [option.name for option in describe_options(backend.options) if not option.text]

        assert not silent, f"{backend.options.__name__} does not say what {silent} mean"

    def test_every_option_may_be_given_its_default(
        self, backend: StorageBackend, make_ground: Callable[[], Ground]
    ) -> None:
        """Writing down what holds anyway changes nothing."""
        for option in describe_options(backend.options):
            if option.default is not None:
                make_ground().open(**{option.name: str(option.default)}).close()

    def test_the_url_is_understood_again(self, storage: Storage) -> None:
        """The URL that the storage reports survives being parsed and printed."""
        url = parse_url(storage.url)

        assert str(url) == storage.url
        assert url.scheme == parse_url(self.url).scheme
