"""Reads a pickle without running any of it: what it names becomes an inert record.

A pickle is a program that calls what it names. Here each name that may occur in saved
spaces and statistics stands for a record that only remembers its state, arrays are
rebuilt from their bytes by hand, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from typing import Any

import numpy as np

from agentkd.errors import LoadError, UnsafeError

_RECORDS = re.compile(
    r"(gym|gymnasium)\.(spaces|utils\.seeding)(\..+)?"
    r"|stable_baselines3\.common\.(vec_env(\..+)?|running_mean_std)"
    r"|numpy\.random(\..+)?"
)
_SCALARS = re.compile(r"u?int\d*|float\d+|bool_?|generic|number")
_NUMBERS = re.compile(r"[?bBhHiIlLqQefdu]\d*")
_PLAIN = {("builtins", "object"), ("__builtin__", "object"), ("numpy", "ndarray")}
_ARRAYS = re.compile(r"numpy\.(_?core)\.(multiarray|numeric)")


class Record:
    """What stands for an object: the last part of its class's name, and its state."""

    state: dict[str, Any]

    def __new__(cls, *_args: Any, **_options: Any) -> Record:
        """Take any arguments and do nothing with them."""
        self = object.__new__(cls)
        object.__setattr__(self, "state", {})
        return self

    def __init__(self, *_args: Any, **_options: Any) -> None:
        """Take any arguments and do nothing with them."""

    def __setstate__(self, state: Any) -> None:
        """Remember the state; of a pair, (state, slots), both."""
        for each in state if isinstance(state, tuple) else (state,):
            if isinstance(each, dict):
                self.state.update(each)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Remember an item of a mapping."""
        self.state[str(key)] = value


class _Dtype:
    """Stands for a numpy.dtype."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise LoadError(f"An array of dtype {code!r} is not plain numbers.")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a numpy.ndarray while it is being rebuilt."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray, str)):
        raise LoadError("An array in it is not plain numbers.")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    flat = np.frombuffer(raw, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_args: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, ())[()]


def _record(kind: Any, *_args: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind()
    raise UnsafeError(f"It builds a {kind!r}, which is not a space or statistics.")


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Make bytes of text, as pickles from before protocol 3 do."""
    return str(text).encode("latin1" if encoding == "latin1" else "ascii")


_CALLS: dict[str, Any] = {
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _array,
}
_OTHERS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("copyreg", "_reconstructor"): _record,
    ("copy_reg", "_reconstructor"): _record,
    ("_codecs", "encode"): _latin1,
}


# The Python form: the C form can be made to allocate gigabytes by a few bytes.
class _Unpickler(pickle._Unpickler):
    """Gives records for the names it knows and refuses all others."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known: dict[str, Any] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """Give an inert stand-in for a name."""
        if _ARRAYS.fullmatch(module) and name in _CALLS:
            return _CALLS[name]
        if (module, name) in _OTHERS:
            return _OTHERS[module, name]
        plain = (module, name) in _PLAIN or (
            module == "numpy" and _SCALARS.fullmatch(name)
        )
        if not plain and not _RECORDS.fullmatch(module):
            raise UnsafeError(
                f"It names {module}.{name}, which is neither a space nor statistics. "
                "Reading it would run its code, so it was not read. If you trust who "
                "made it, allow unpickling (allow_pickle=True, --unpickle), which runs "
                "whatever code the file holds."
            )
        key = f"{module}.{name}"
        if key not in self._known:
            self._known[key] = type(name.rpartition(".")[2], (Record,), {})
        return self._known[key]

    def persistent_load(self, pid: Any, /) -> Any:
        """Refuse references to things outside the file."""
        raise UnsafeError(f"It refers to something outside the file: {pid!r}.")


def read(data: bytes) -> Any:
    """Read a pickle of spaces or statistics; run nothing.

    Args:
        data: The pickle's bytes.

    Returns:
        Plain values, NumPy arrays, and a `Record` for each object, whose class has
        the name of the object's class.

    Raises:
        UnsafeError: If it names anything but spaces, statistics and arrays.
        LoadError: If it is damaged, or holds arrays of anything but numbers.
    """
    try:
        return settled(_Unpickler(data).load())
    except LoadError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise LoadError(f"Not a readable pickle: {error!r}.") from error


def settled(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """Put the arrays in the place of what they were rebuilt from."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Dtype):
        return value.dtype
    if id(value) in seen:
        return value
    deeper = seen | {id(value)}
    if isinstance(value, Record):
        value.state = {k: settled(v, deeper) for k, v in value.state.items()}
    elif isinstance(value, dict):
        return {k: settled(v, deeper) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        return type(value)(settled(v, deeper) for v in value)
    return value
