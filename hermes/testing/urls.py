"""Finds out under which URL a plugin can be tested that says nothing of its URLs but the scheme.

A URL is a template, as the contract suites take it: ``{tmp}`` stands for a new directory.
"""

from __future__ import annotations

import tempfile

from hermes.errors import InvalidUrl
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url
from hermes.testing.kernel import EchoKernel

TMP = "{tmp}"
CANDIDATES = {
    "transport": ("//127.0.0.1:0", f"{TMP}/socket", "//0", ""),
    "storage": (f"{TMP}/data", ""),
}
"""Addresses to try after the scheme: a port of the system's choice, a path, a name of the plugin's
own choice, nothing."""


def free_url(kind: str, scheme: str) -> str:
    """The first URL that the plugin accepts, free each time it is used.

    Raises:
        InvalidUrl: none of those that are tried; the message says what was said of each.
    """
    refusals = []
    for candidate in CANDIDATES[kind]:
        url = f"{scheme}:{candidate}"
        with tempfile.TemporaryDirectory(prefix="hermes-") as place:
            try:
                _try(kind, scheme, url.replace(TMP, place))
            except InvalidUrl as error:
                refusals.append(str(error))
            else:
                return url
    said = "".join(f"\n  {refusal}" for refusal in refusals)
    raise InvalidUrl(
        f"{kind} {scheme!r} can be used under none of the URLs that were tried; name one with "
        f"--url ({TMP} stands for a new directory):{said}"
    )


def _try(kind: str, scheme: str, text: str) -> None:
    url = parse_url(text)
    if kind == "transport":
        default_plugins().transport(scheme).listen(url, EchoKernel()).close()
    else:
        default_plugins().storage(scheme).open(url).close()
