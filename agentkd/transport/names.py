"""Names that are words of topics: of sites and devices; and texts that have to match a pattern."""

from __future__ import annotations

import re

from agentkd.errors import LoadError

_SITE = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def root(site: str) -> str:
    """Return what every topic of a site begins with.

    Raises:
        LoadError: If the name is not one word of letters, digits, `_` and `-`.
    """
    return "akd/v1/" + matching(_SITE, site, "The site's name")


def device_name(name: str) -> str:
    """Return a device's name if it can be one.

    Raises:
        LoadError: If it is not one word of letters, digits, `_`, `-` and points.
    """
    return matching(DEVICE, name, "The device's name")


def matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    """Return a text that matches a pattern.

    Raises:
        LoadError: If it does not; the message begins with `what`.
    """
    if not pattern.fullmatch(text):
        raise LoadError(f"{what} is {text[:80]!r}; it has to match {pattern.pattern}.")
    return text
