"""The native form of an executor: compiled once with the system's `cc`, and cached.

`Executor` is the reference; this is the same arithmetic in C, called through ctypes with pointers
bound in advance. Where there is no compiler there is no native form, and the caller uses NumPy.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd.dists import bounds
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.difference import actions_of, difference
from agentkd.executors.executor import NOT_FINITE, Executor, distribution
from agentkd.executors.kernel_cache import CompilerError, load
from agentkd.executors.plan import HEADS, KINDS, Step, padded_size, rooms, steps
from agentkd.executors.recurrent import RecurrentExecutor
from agentkd.executors.staged import Staged, finish
from agentkd.printable import logger
from agentkd.sizes import INT32
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import ActionDist, Floats, Policy, RecurrentPolicy
from agentkd.views import pick

log = logger(__name__)

_FLAGS = ("-std=gnu99", "-O3", "-march=native", "-fPIC", "-shared", "-Wno-psabi")
KERNELS = Path(__file__).with_name("c") / "akd_kernels.h"
"""The arithmetic, in C99; exported C is made of the same file."""
_PRODUCTS = KERNELS.with_name("akd_products.h")
_BLOCK = 16
_ALIGN = 64
_TOLERANCE = 1e-4
"""Largest difference from NumPy, relative to 1 + |x|, before a build is refused."""
_MOST_PADDED = 1 << 27
"""Floats that padded weights may take, 512 MiB."""


class _Layer(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("memory", ctypes.c_int32),
        ("dims", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
    )


class _Net(ctypes.Structure):
    _fields_ = (
        ("obs", ctypes.c_int32),
        ("layer_count", ctypes.c_int32),
        ("head", ctypes.c_int32),
        ("out", ctypes.c_int32),
        ("size_count", ctypes.c_int32),
        ("start", ctypes.c_int32),
        ("clip", ctypes.c_float),
        ("mean", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("low", ctypes.c_void_p),
        ("high", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("layers", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("width", ctypes.c_int32),
    )


def compiler() -> str | None:
    """The C compiler, named in CC or the system's; None where there is none."""
    wanted = os.environ.get("CC")
    for name in [wanted] if wanted else ["cc", "gcc", "clang"]:
        found = shutil.which(name)
        if found:
            # Compilers run in folders of their own.
            return str(Path(found).absolute())
    return None


def _key(command: str, flags: Sequence[str], source: Path) -> bytes:
    """Everything that the library depends on.

    The compiler's file and the processor are part of it: a cache on a shared home must not hand one
    machine's instructions to another. Running the compiler for its version would cost every start
    12 ms.
    """
    program = Path(command).resolve()
    status = program.stat()
    identity = f"{program} {status.st_size} {status.st_mtime_ns}"
    pieces = (
        source.read_bytes(),
        KERNELS.read_bytes(),
        _PRODUCTS.read_bytes(),
        identity.encode(),
        " ".join(flags).encode(),
    )
    return b"\0".join((*pieces, _processor().encode()))


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    return platform.machine() + "".join(sorted(set(lines)))


def compiled(
    source: Path, functions: Sequence[str], *flags: str, what: str, instead: str
) -> ctypes.CDLL | None:
    """Compile a file of C for this machine, or load it from the cache.

    Args:
        source: The file; it may include what `c/` has, and nothing else of ours.
        functions: What it has to define.
        flags: For the compiler, beside those of all.
        what: What it is, for a warning: "The native executor".
        instead: What runs without it: "NumPy runs".

    Returns:
        The library, or None if there is no compiler or it fails; a warning says why.
    """
    if os.environ.get("AGENTKD_NATIVE", "1") == "0":
        return None
    command = compiler()
    if command is None:
        log.warning(
            "No C compiler (cc, gcc, clang): executors run in NumPy and gradient steps in torch, "
            "several times slower. Install one, or name it in CC."
        )
        return None
    flags = (*_FLAGS, *flags)
    try:
        key = _key(command, flags, source)
        return load([command, *flags, str(source.resolve()), "-lm"], key, functions)
    except CompilerError as error:
        log.warning("%s did not compile (%s): %s", what, instead, error)
        return None
    except OSError as error:
        log.warning("%s cannot be built (%s): %s", what, instead, error)
        return None


@cache
def _library() -> ctypes.CDLL | None:
    source = Path(__file__).with_name("kernel.c")
    library = compiled(
        source, ("akd_call", "akd_outputs"), what="The native executor", instead="NumPy runs"
    )
    if library is None:
        return None
    pointer = ctypes.c_void_p
    # Without argument types a bound reference is passed on as it is, the quickest way.
    library.akd_call.restype = ctypes.c_int32
    numbers = ctypes.c_int32
    library.akd_outputs.argtypes = [pointer, pointer, numbers, pointer, numbers, pointer]
    library.akd_outputs.restype = ctypes.c_int32
    return library


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """Copy to memory that begins on a cache line."""
    raw = np.zeros(values.nbytes + _ALIGN, np.uint8)
    skip = -raw.ctypes.data % _ALIGN
    out = raw[skip : skip + values.nbytes].view(values.dtype).reshape(values.shape)
    out[...] = values
    return out


@final
class Native:
    """A compiled executor with buffers of its own: one caller at a time.

    Attributes:
        executor: What it was compiled from.
        obs: Where the next observation is written, float32, (obs,).
        memory: What it remembers, float32, (memory,); `run` brings it up to date.
        run: Decides for `obs`; gives 0, or 1 if it, or the last layer's numbers, hold NaN or
            infinity.
    """

    __slots__ = (
        "_choices",
        "_keep",
        "_library",
        "_net",
        "_scalar",
        "_values",
        "executor",
        "memory",
        "obs",
        "run",
    )

    def __init__(
        self, executor: Executor, library: ctypes.CDLL, laid: tuple[Step, ...] = ()
    ) -> None:
        action = executor.spec.action
        size = executor.spec.obs.size
        keep: list[Any] = [library]

        def hold(values: Any, dtype: Any = np.float32) -> int:
            array = aligned(np.asarray(values, dtype))
            keep.append(array)
            return int(array.ctypes.data)

        laid = laid or steps(executor, _BLOCK)
        layers = (_Layer * len(laid))()
        for slot, step in zip(layers, laid, strict=True):
            addresses = [hold(each) for each in step.arrays]
            slot.kind, slot.memory = KINDS[step.kind], step.memory
            slot.dims = hold(step.dims, np.int32)
            slot.arrays = hold(addresses, np.uintp)
        room = rooms(executor, _BLOCK, laid)
        sizes = action.sizes if isinstance(action, MultiDiscreteSpec) else ()
        low, high = bounds(action) if isinstance(action, BoxSpec) else ((), ())
        out = executor.out
        # The C code trusts these; the executor has checked them.
        assert len(low) in (0, out)
        assert sum(sizes) in (0, out)
        net = _Net(
            obs=size,
            layer_count=len(executor.layers),
            head=HEADS[executor.head],
            out=out,
            size_count=len(sizes),
            start=action.start if isinstance(action, DiscreteSpec) else 0,
            clip=executor.clip,
            mean=hold(executor.mean),
            scale=hold(executor.scale),
            low=hold(low),
            high=hold(high),
            sizes=hold(sizes, np.int32),
            layers=ctypes.addressof(layers),
            scratch=hold(np.zeros(2 * room.width + room.work)),
            width=room.width,
        )
        keep += [layers, net]
        self.executor = executor
        self.obs: Floats = aligned(np.zeros(size, np.float32))
        self.memory: Floats = aligned(np.zeros(executor.memory, np.float32))
        # As many numbers as akd_act writes; the shape is only a view of them.
        shape = action.shape if isinstance(action, BoxSpec) else (out,)
        self._values: Floats = aligned(np.zeros(out, np.float32)).reshape(shape)
        self._choices = aligned(np.zeros(out, np.int64))
        self._scalar = ctypes.c_int64.from_address(self._choices.ctypes.data)
        self._keep = keep
        self._library = library
        self._net = ctypes.addressof(net)
        # A call from Python pays for each argument, and for each frame on the way, more than this
        # network costs: all pointers lie in one struct, bound once, here.
        call = (ctypes.c_void_p * 5)(
            self._net,
            self.obs.ctypes.data,
            self.memory.ctypes.data,
            self._values.ctypes.data,
            self._choices.ctypes.data,
        )
        keep.append(call)
        run = partial(library.akd_call, ctypes.byref(call))
        # The function keeps the buffers alive that it writes to.
        vars(run)["held"] = keep
        self.run: Callable[[], int] = run

    def take(self) -> Any:
        """Give the action that `run` decided: an int, or a fresh array."""
        match self.executor.head:
            case "categorical":
                return self._scalar.value
            case "squashed" | "clipped":
                return self._values.copy()
            case "multicategorical":
                action = self.executor.spec.action
                assert isinstance(action, MultiDiscreteSpec)
                return self._choices[: len(action.sizes)].copy()
            case "bernoulli":
                return self._choices.astype(np.int8)

    def act(self, obs: Any) -> Any:
        """Decide for one flat observation (obs,).

        Raises:
            SpecError: If it has another shape.
            NumbersError: If it, or the last layer's numbers, hold NaN or infinity.
        """
        array = np.asarray(obs)
        if array.shape != self.obs.shape:
            raise SpecError(f"The observation has shape {array.shape}, not {self.obs.shape}.")
        self.obs[:] = array
        if self.run():
            raise NumbersError(NOT_FINITE)
        return self.take()

    def outputs(self, obs: Floats) -> Floats:
        """The last layer's numbers for observations (batch, obs): (batch, out).

        Raises:
            SpecError: If they have another shape, or it has a memory.
        """
        if self.executor.memory:
            raise SpecError(f"{self.executor.architecture} has a memory: use `advance`.")
        return self._outputs(obs, self.memory, 0)

    def advance(self, obs: Floats, state: Floats) -> tuple[Floats, Floats]:
        """The last layer's numbers for observations (batch, obs), and the memory after.

        `state` is the memory before, (batch, memory).

        Raises:
            SpecError: If the memory has another shape.
        """
        if np.shape(state) != (len(obs), self.executor.memory):
            raise SpecError(
                f"The memory has shape {np.shape(state)}, not ({len(obs)}, {self.executor.memory})."
            )
        after = np.array(state, np.float32, order="C")
        return self._outputs(obs, after, self.executor.memory), after

    def follow(self, obs: Floats) -> Floats:
        """The last layer's numbers for a sequence, (ticks, obs), from no memory on."""
        memory = np.zeros(self.executor.memory, np.float32)
        return self._outputs(obs, memory, 0)

    def _outputs(self, obs: Floats, memory: Floats, apart: int) -> Floats:
        if obs.ndim == 2:
            obs = pick(self.executor.spec.obs, obs)
        if obs.ndim != 2 or obs.shape[1] != len(self.obs):
            raise SpecError(f"Observations have shape {obs.shape}, not (batch, {len(self.obs)}).")
        rows = np.ascontiguousarray(obs, np.float32)
        if len(rows) * max(1, apart) >= INT32:
            raise SpecError(f"{len(rows)} observations at once are too many.")
        out = np.empty((len(rows), self.executor.out), np.float32)
        self._library.akd_outputs(
            self._net, rows.ctypes.data, len(rows), memory.ctypes.data, apart, out.ctypes.data
        )
        return out

    @property
    def policy(self) -> Policy | RecurrentPolicy:
        """What answers batches: itself, or with a memory a `RecurrentPolicy`."""
        memory = self.executor.memory
        return RecurrentExecutor(self.executor.spec, memory, self.answer) if memory else self

    def answer(self, obs: Floats, state: Floats) -> tuple[ActionDist, Floats]:
        """The action distribution, and the memory after; as `advance`."""
        outputs, after = self.advance(obs, state)
        return distribution(self.executor.head, outputs, self.executor.spec), after

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs)."""
        return distribution(self.executor.head, self.outputs(obs), self.executor.spec)


@final
class NativeForm:
    """A compiled executor.

    Args:
        native: The compiled executor.
    """

    __slots__ = ("_before", "_native", "executor", "memory", "obs", "run", "take")

    def __init__(self, native: Native) -> None:
        """Take over its buffers; without a memory, its functions as they are."""
        self._native = native
        self.executor, self.obs, self.memory = native.executor, native.obs, native.memory
        self._before: Floats = np.zeros_like(native.memory)
        self.take: Callable[[], Any] = native.take
        self.run: Callable[[], int] = native.run
        if native.executor.memory:
            self.run = self._remembering

    def _remembering(self) -> int:
        self._before[:] = self.memory
        failed = self._native.run()
        if failed:
            # Numbers that overflowed once would stay.
            self.memory[:] = self._before
        return failed

    def dist(self) -> ActionDist:
        """Give the distribution that `run` decided by, one row."""
        executor = self.executor
        before = self._before[None]
        outputs, _ = self._native.advance(self.obs[None], before)
        return distribution(executor.head, outputs, executor.spec)


def compile_native(executor: Executor) -> Native | None:
    """Make the native form of an executor, checked against NumPy.

    Returns:
        The compiled executor, or None without a compiler (a warning says so, once).
    """
    return finish(staged_native(executor))


def staged_native(executor: Executor) -> Staged[Native | None]:
    """Make the native form as `compile_native` does, in stages."""
    library = _library()
    if library is None:
        return None
    if padded_size(executor, _BLOCK) > _MOST_PADDED:
        log.warning("The executor is too large for the native form; NumPy runs.")
        return None
    laid = steps(executor, _BLOCK)
    yield "bind"
    native = Native(executor, library, laid)
    yield "compute"
    # Multiples of the golden ratio spread evenly; NumPy's generators would be a tenth of a start.
    count = 8 * executor.spec.obs.size
    probe = (4.0 * (np.arange(count) * 0.6180339887498949 % 1.0) - 2.0).reshape(8, -1)
    most = np.finfo(np.float32).max
    spread = executor.mean + probe / np.maximum(np.abs(executor.scale), 1e-8)
    obs = np.clip(spread, -most, most).astype(np.float32)
    if executor.memory:
        expected, got = executor.follow(obs), native.follow(obs)
    else:
        expected, got = executor.outputs(obs), native.outputs(obs)
    yield "compare"
    native.memory[:] = 0.0
    taken = np.stack([np.ravel(native.act(each)) for each in obs])
    native.memory[:] = native.obs[:] = 0.0
    wanted = actions_of(executor, expected)
    _, text = difference(executor, got, taken.astype(wanted.dtype), expected, wanted, _TOLERANCE)
    if text:
        log.warning("The native executor differs; NumPy runs instead: %s.", text)
        return None
    return native
