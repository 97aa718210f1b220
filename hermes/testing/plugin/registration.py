"""Registration: the plugin can be found, says what it is, and costs nothing until it is used."""

from __future__ import annotations

import msgspec

from hermes.errors import UsageError
from hermes.spi.hooks import API_VERSION, Plugin
from hermes.spi.options import describe_options
from hermes.spi.url import parse_options
from hermes.testing.contract import raises
from hermes.testing.plugin.contract import Contract
from hermes.testing.registration import BaseRegistration


class RegistrationContract(BaseRegistration[Plugin], Contract):
    """The plugin as the environment sees it."""

    def test_it_has_the_shape_of_a_plugin(self) -> None:
        """The plugin has all of a Plugin, and implements this version of the interface."""
        made = self.make()

        assert isinstance(made, Plugin), "it lacks something of hermes.spi.hooks.Plugin"
        assert made.api_version == API_VERSION
        assert issubclass(made.options, msgspec.Struct), "options is no msgspec struct"

    def test_every_option_is_documented(self) -> None:
        """Each field of the option struct has a docstring below it."""
        options = self.make().options
        silent = [option.name for option in describe_options(options) if not option.text]

        assert not silent, f"{options.__name__} does not say what {silent} mean"

    def test_a_wrong_option_is_refused(self) -> None:
        """An option that does not exist, or a value of another type, raises UsageError."""
        options = self.make().options
        with raises(UsageError, "Plugin.options: an unknown option is refused", match="no-such"):
            parse_options({"no-such-option": "1"}, options, owner=self.name, source=self.name)
        for option in describe_options(options):
            if "text" not in option.values:
                with raises(UsageError, f"Plugin.options: {option.name}=?! is ill typed"):
                    parse_options({option.name: "?!"}, options, owner=self.name, source=self.name)
