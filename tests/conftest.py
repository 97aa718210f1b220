"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: how long an example may take is pytest-timeout's business.
settings.register_profile("hermes", deadline=None, print_blob=True)
settings.load_profile("hermes")
