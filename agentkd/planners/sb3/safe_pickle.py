"""Reads a pickle without running any of it: what it names becomes an inert record.

A pickle is a program that calls what it names. Here each name that may occur in saved spaces and
statistics stands for a record that only remembers its state, arrays are rebuilt from their bytes by
hand, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from agentkd.errors import LoadError, UnsafeError
from agentkd.files import loading

_RECORDS = re.compile(
    r"(gym|gymnasium)\.(spaces|utils\.seeding)(\..+)?"
    r"|stable_baselines3\.common\.(vec_env(\..+)?|running_mean_std)"
    r"|numpy\.random(\..+)?"
)
_SCALARS = re.compile(r"u?int\d*|float\d+|bool_?|generic|number")
_NUMBERS = re.compile(r"[?bBhHiIlLqQefdu]\d*")
_PLAIN = {("builtins", "object"), ("__builtin__", "object"), ("numpy", "ndarray")}
_ARRAYS = re.compile(r"numpy\.(_?core)\.(multiarray|numeric)")
_MOST_STEPS = 1 << 17
"""Instructions that a pickle may have; statistics of 50 parts have some thousands."""
_MOST_NAMES = 256
_KEYS = (str, bytes, int, float, bool, type(None))


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
        if self.state:
            raise LoadError("An object in it is built twice.")
        for each in state[:2] if isinstance(state, tuple) else (state,):
            if isinstance(each, dict):
                self.state.update(each)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Remember an item of a mapping."""
        self.state[str(key)] = value


class _Dtype:
    """Stands for a numpy.dtype."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            shown = code[:20] if isinstance(code, str) else type(code).__name__
            raise LoadError(f"An array of dtype {shown!r} is not plain numbers.")
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


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray, str)):
        raise LoadError("An array in it is not plain numbers.")
    if not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise LoadError("An array in it has a shape that is none.")
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
    raise UnsafeError("It builds something that is neither a space nor statistics.")


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Make bytes of text, as pickles from before protocol 3 do."""
    if not isinstance(text, str):
        raise LoadError("It makes bytes of something that is not text.")
    return text.encode("latin1" if encoding == "latin1" else "ascii")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    """Make a dictionary of a list of pairs."""
    found = {}
    for key, value in pairs:
        _check_key(key)
        found[key] = value
    return found


def _check_key(key: Any) -> None:
    """Allow plain keys only: the hash of tuples in tuples can take for ever."""
    if type(key) not in _KEYS:
        raise LoadError(f"A key in it is a {type(key).__name__}.")


_CALLS: dict[str, Any] = {"_reconstruct": _reconstruct, "scalar": _scalar, "_frombuffer": _array}
_OTHERS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): _ordered,
    ("copyreg", "_reconstructor"): _record,
    ("copy_reg", "_reconstructor"): _record,
    ("_codecs", "encode"): _latin1,
}


def _check_keys(stack: list[Any]) -> None:
    for key in stack[::2]:
        _check_key(key)


def _check_built(stack: list[Any]) -> None:
    """Allow stand-ins only to be given a state: functions have one, too."""
    if not isinstance(stack[-2], (Record, _Dtype, _Array)):
        raise LoadError("It builds something that is not an object.")


def _refuse_set(_: list[Any]) -> None:
    raise LoadError("It holds a set, which statistics and spaces do not.")


_CHECKS: dict[bytes, Callable[[list[Any]], None]] = {
    pickle.BUILD: _check_built,
    pickle.SETITEM: lambda stack: _check_key(stack[-2]),
    pickle.SETITEMS: _check_keys,
    pickle.DICT: _check_keys,
    pickle.EMPTY_SET: _refuse_set,
    pickle.ADDITEMS: _refuse_set,
    pickle.FROZENSET: _refuse_set,
}


# The Python form: the C form can be made to allocate gigabytes by a few bytes.
_Base = pickle._Unpickler


def _checked(opcode: bytes) -> Callable[[Any], None]:
    """Check the stack before an instruction is carried out."""
    plain: Any = _Base.dispatch[opcode[0]]

    def load(unpickler: Any) -> None:
        _CHECKS[opcode](unpickler.stack)
        plain(unpickler)

    return load


class _Unpickler(_Base):
    """Gives records for the names it knows and refuses all others."""

    dispatch: ClassVar[dict[int, Any]] = {
        **_Base.dispatch,
        **{opcode[0]: _checked(opcode) for opcode in _CHECKS},
    }

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known: dict[str, Any] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """Give an inert stand-in for a name."""
        if _ARRAYS.fullmatch(module) and name in _CALLS:
            return _CALLS[name]
        if (module, name) in _OTHERS:
            return _OTHERS[module, name]
        plain = (module, name) in _PLAIN or (module == "numpy" and _SCALARS.fullmatch(name))
        if not plain and not _RECORDS.fullmatch(module):
            raise UnsafeError(
                f"It names {module[:80]}.{name[:80]}, which is neither a space nor "
                "statistics. Reading it would run its code, so it was not read. If you "
                "trust who made it, allow unpickling (allow_pickle=True, --unpickle), "
                "which runs whatever code the file holds."
            )
        key = f"{module}.{name}"
        if key not in self._known:
            if len(self._known) == _MOST_NAMES:
                raise LoadError(f"It names more than {_MOST_NAMES} classes.")
            self._known[key] = type(name.rpartition(".")[2], (Record,), {})
        return self._known[key]

    def persistent_load(self, _pid: Any, /) -> Any:
        """Refuse references to things outside the file."""
        raise UnsafeError("It refers to something outside the file.")


def read(data: bytes) -> Any:
    """Read a pickle of spaces or statistics; run nothing.

    Returns:
        Plain values, NumPy arrays, and a `Record` for each object, whose class has the name of the
        object's class.

    Raises:
        UnsafeError: If it names anything but spaces, statistics and arrays.
        LoadError: If it is damaged, has too many instructions, or holds arrays of anything but
            numbers.
    """
    with loading("The pickle", keep=(UnsafeError,)):
        # Walking over the instructions runs none, and bounds the work and the memory.
        for count, _ in enumerate(pickletools.genops(data)):
            if count > _MOST_STEPS:
                raise LoadError(f"A pickle of more than {_MOST_STEPS} instructions.")
        return _settled(_Unpickler(data).load(), {})


def _settled(value: Any, done: dict[int, Any]) -> Any:
    """Put arrays in the place of their stand-ins, in each object once; `done` goes by identity."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Dtype):
        return value.dtype
    if not isinstance(value, (Record, dict, list, tuple)):
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value
    if isinstance(value, Record):
        value.state = _settled(value.state, done)
    elif isinstance(value, dict):
        for key, each in value.items():
            value[key] = _settled(each, done)
    elif isinstance(value, list):
        value[:] = [_settled(each, done) for each in value]
    else:
        done[id(value)] = tuple([_settled(each, done) for each in value])
    return done[id(value)]
