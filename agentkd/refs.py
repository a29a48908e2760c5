"""References: "module:attribute", resolved with the working directory on the path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from agentkd.errors import RefError, did_you_mean


def is_reference(text: str) -> bool:
    """Say whether `text` has the form "module:attribute"."""
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(
        part.isidentifier() for part in [*module.split("."), *attribute.split(".")]
    )


def working_directory_on_path() -> None:
    """Put the working directory on the import path, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def resolve(text: str) -> Any:
    """Import what "module:attribute" names.

    Raises:
        RefError: If the form, the module or the attribute is wrong.
    """
    if not is_reference(text):
        raise RefError(
            f"{text!r} is not a reference. Write module:attribute, such as policies.mine:planner."
        )
    working_directory_on_path()
    name, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RefError(
            f"{text!r}: no module {error.name!r} on the path, which begins with "
            f"{Path.cwd()}. Install it, or run from the folder that holds it."
        ) from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            hint = did_you_mean(attribute, (n for n in dir(found) if n[0] != "_"))
            raise RefError(f"{text!r}: {name!r} has no {attribute!r}.{hint}")
        found = getattr(found, attribute)
    return found
