"""Reads what torch.save wrote in any version: tensors, plain values, and NumPy's numbers unread."""

from __future__ import annotations

import re
from typing import Any

from agentkd.archives import load_tensors
from agentkd.errors import UnsafeError
from agentkd.planners.files.weights import REMEDY

_NUMBERS = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float32", "Float64", "Int64", "Bool")),
)
"""What checkpoints name besides tensors: rl_games keeps the mean reward as a number of NumPy's."""


class Unread:
    """Stands for a number of NumPy's: it is not rebuilt, for no policy needs it."""

    def __init__(self, *_args: Any) -> None:
        """Take any arguments and do nothing with them."""

    def __setstate__(self, _state: Any) -> None:
        """Take any state and do nothing with it."""


def load_checkpoint(raw: bytes, where: str) -> Any:
    """Read tensors, plain values and containers of these.

    Raises:
        LoadError: If the file is damaged, or not as large as it says.
        UnsafeError: If it holds anything else, such as a whole module.
    """
    import torch

    # Each name needs a class of its own: torch looks them up by name and calls what it finds.
    stand_ins: list[Any] = [(type("Unread", (Unread,), {}), name) for name in _NUMBERS]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return load_tensors(raw, where)
    except UnsafeError as error:
        # Torch's own words advise to run what the file holds: only the name is taken of them.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        named = re.search(r"GLOBAL ([\w.]{1,80})", str(cause))
        held = f", such as {named[1]}," if named else ""
        raise UnsafeError(
            f"{where} holds more than plain tensors{held} so it was not read. {REMEDY}"
        ) from error
