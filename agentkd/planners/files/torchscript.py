"""Policies as TorchScript: a module with its code, which torch's own interpreter runs.

No Python is run, and no operation that reads or writes a file is let in: the code is read before it
is loaded, and what was read is what is loaded.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.archives import check_pickle, opened_zip, read_entry
from agentkd.errors import AgentkdError, LoadError, PlannerError, SpecError, UnsafeError
from agentkd.files import loading
from agentkd.planners.adapt import from_module
from agentkd.planners.files.contents import LIMIT
from agentkd.planners.files.network import free_box, own_spec
from agentkd.planners.files.onnx import Meaning, meaning
from agentkd.planners.files.options import Assumptions
from agentkd.planners.planner import Planner
from agentkd.printable import logger
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, State

log = logger(__name__)

_REFUSED = re.compile(
    # Operations on files, objects that are not of torch's core, and other processes.
    r"\b(?:save|from_file|classes|distributed|rpc)\b"
    # Those that write to the terminal as it is, or make all of torch's random numbers anew.
    r"|\b(?:print|manual_seed)\b"
    # Operations of other libraries, by whatever name they are reached.
    r"|\bops\b(?!\s*\.\s*(?:aten|prim|quantized)\b)(?:\s*\.\s*\w+)?"
    # Names for getattr that are spelt otherwise: escaped, or in pieces.
    r"|,\s*[\"'][^\"'\n]*\\|[\"']\s+[\"']|\w(?:\"\"|'')\w|\"'|'\""
)
_CLASSES = b"torch.classes"
_SCRIPT = re.compile(r"code/.+\.py")
_PICKLES = ("constants.pkl", "data.pkl")
_PLAIN = re.compile(
    r"(data|constants)/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+"
)
"""Entries of numbers, and of what torch says of the file."""
_DROPPED = re.compile(r"code/.+\.debug_pkl|extra/.+|traced_inputs(/.+|\.pkl)", re.DOTALL)
"""Where the code came from, for messages, what its author added, and what it was traced with: not
needed, not loaded."""
_RESETS = ("reset", "reset_memory")
_WIDEST = 1 << 16


def load(raw: bytes, path: Path, spec: Spec | None, about: Assumptions) -> Planner:
    """Make a planner of a TorchScript file.

    Raises:
        LoadError: If it is damaged, or takes something else than observations.
        UnsafeError: If its code uses operations on files, or of other libraries.
        PlannerError: If it fails, or draws random numbers.
        SpecError: If it is for another environment.
    """
    import torch

    clean = _checked(raw, about.where)
    with loading(about.where), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        read: Any = torch.jit.load
        module = read(io.BytesIO(clean), map_location="cpu").eval()
    for name, tensor in module.state_dict().items():
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored:
            raise LoadError(f"{about.where}: {name!r} has more numbers than are stored.")
    inputs = _inputs(module, spec, about)
    digest, name = hashlib.sha256(raw).hexdigest(), f"TorchScript policy {path.name}"
    parameters = sum(each.numel() for each in module.parameters())
    begin, changing = _memory(module, inputs, about)
    if spec is None:
        with torch.no_grad():
            width = _array(module(torch.zeros(1, inputs))).size
        _put(module, begin)
        spec = own_spec(inputs, free_box(width))
    known = meaning(spec.action, about)
    if changing:
        arrays = {key: begin[key] for key in changing}
        policy: Any = ScriptedRecurrentPolicy(module, known, arrays)
    else:
        from_module(module, own_spec(inputs, spec.action))
        policy = ScriptedPolicy(module, known, _takes_one(module, inputs))
    return Planner(policy, spec, name, parameters, digest)


def _checked(raw: bytes, where: str) -> bytes:
    """Read the code in a TorchScript file, and write anew the file that was read.

    Raises:
        LoadError: If it is of an old form, which keeps its code elsewhere.
        UnsafeError: If the code names an operation on files, or one of another library; or if it
            holds an entry that is neither code, pickle nor numbers.
    """
    out = io.BytesIO()
    with opened_zip(io.BytesIO(raw), where) as file, zipfile.ZipFile(out, "w") as clean:
        names = [name for name in file.namelist() if not name.endswith("/")]
        # Torch finds entries whatever their case is, so they are told apart without it.
        inner = {name: name.partition("/")[2].casefold() for name in names}
        held = set(inner.values())
        if "constants.pkl" not in held or "model.json" in held:
            raise LoadError(f"{where} is of torch before 1.4. Save it again with a later version.")
        if len(held) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
            raise UnsafeError(
                f"{where} holds entries whose names differ in case or folder only, so it was not "
                "loaded. Save it again with torch.jit.save."
            )
        for name in names:
            if _DROPPED.fullmatch(inner[name]):
                continue
            data = read_entry(file, name, LIMIT, where)
            if _SCRIPT.fullmatch(inner[name]):
                _check_code(data.decode("utf-8", "replace"), where)
            elif inner[name] in _PICKLES:
                _check_pickle(data, where)
            elif not _PLAIN.fullmatch(inner[name]):
                raise UnsafeError(
                    f"{where} holds {name[:80]!r}, which no TorchScript file needs, so it was not "
                    "loaded. Save it again with torch.jit.save."
                )
            clean.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def _check_pickle(data: bytes, where: str) -> None:
    """Bound the memory that torch's own reader takes for a pickle, which holds tensors only."""
    if _CLASSES in data:
        _check_code(_CLASSES.decode(), where)
    with loading(where, keep=(AgentkdError,)):
        check_pickle(io.BytesIO(data), where)


def _check_code(code: str, where: str) -> None:
    if found := _REFUSED.search(code):
        raise UnsafeError(
            f"{where}: its code uses {found[0][:40]!r}, which may touch files, the process or "
            "other libraries, so it was not loaded. If you trust who made it, load it in a "
            "function of yours with torch.jit.load and give module:function."
        )


def _inputs(module: Any, spec: Spec | None, about: Assumptions) -> int:
    """How many numbers the module observes: the environment's, or what the first weights take."""
    import torch

    arguments = len(module.forward.schema.arguments) - 1
    if arguments != 1:
        raise LoadError(
            f"{about.where}: its forward takes {arguments} arguments; one, the observation, is "
            "needed. Write a function planner(spec) that calls it, and give module:planner."
        )
    sizes = [each.shape[-1] for each in module.state_dict().values() if each.ndim]
    if spec is not None:
        sizes = [spec.obs.size]
    for size in dict.fromkeys(int(each) for each in sizes):
        if not 0 < size <= _WIDEST:
            continue
        kept = {name: value.clone() for name, value in module.named_buffers()}
        try:
            with torch.no_grad():
                module(torch.zeros(1, size))
        except Exception as error:  # of a stranger's module; another width may fit
            log.debug("%s takes no %d numbers: %s", about.where, size, error)
        else:
            return size
        finally:
            _put(module, kept)
    if spec is not None:
        raise SpecError(
            f"{about.where} fails for the environment's observations, (1, {spec.obs.size}). It was "
            "trained in another environment, or with other observations."
        )
    raise LoadError(
        f"{about.where} fails for an observation of any width that its weights have, (1, n). "
        "Write a function planner(spec) that calls it, and give module:planner."
    )


def _takes_one(module: Any, inputs: int) -> bool:
    """Whether the module answers one row at a time: of two it makes something else, or fails."""
    import torch

    two = torch.randn(2, inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = torch.cat(
            [torch.from_numpy(_array(module(row[None]))).reshape(1, -1) for row in two]
        )
        try:
            both = torch.from_numpy(_array(module(two)))
        except Exception:  # of a stranger's module
            return True
    return both.numel() != each.numel() or not torch.allclose(both.reshape(2, -1), each, atol=1e-4)


def _put(module: Any, values: Mapping[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name in values and buffer.shape == values[name].shape:
                buffer.copy_(values[name])


def _memory(module: Any, inputs: int, about: Assumptions) -> tuple[dict[str, Any], list[str]]:
    """The buffers where an episode begins, and which of them are a memory: those that change."""
    import torch

    reset = next((name for name in _RESETS if hasattr(module, name)), None)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad(), loading(about.where, keep=(AgentkdError,)):
        if reset is not None:
            getattr(module, reset)()
        begin = {name: value.clone() for name, value in module.named_buffers()}
        for _ in range(3):
            module(torch.randn(1, inputs, generator=random))
    after = dict(module.named_buffers())
    changing = [name for name, value in begin.items() if not torch.equal(value, after[name])]
    _put(module, begin)
    if changing and reset is None:
        about.note("an episode begins with the memory that lies in the file; it has no reset()")
    return begin, changing


@dataclass(frozen=True, slots=True, eq=False)
class ScriptedPolicy:
    """A module without a memory. It is a `Policy`."""

    module: Any
    meaning: Meaning
    single: bool

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        import torch

        rows = torch.from_numpy(np.array(obs, np.float32))
        with torch.no_grad():
            if not self.single:
                return self.meaning(_array(self.module(rows)), len(obs))
            found = [_array(self.module(row[None])).reshape(1, -1) for row in rows]
        return self.meaning(np.concatenate(found), len(obs))


@dataclass(frozen=True, slots=True, eq=False)
class ScriptedRecurrentPolicy:
    """A module that keeps its memory in buffers, for one row. It is a `RecurrentPolicy`.

    The memory's arrays are those buffers, (batch, …); each row's are put into the module and taken
    out again.
    """

    module: Any
    meaning: Meaning
    begin: Mapping[str, Any]

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with."""
        each = (value.numpy() for value in self.begin.values())
        return tuple(np.repeat(value[None], batch, axis=0).astype(np.float32) for value in each)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        import torch

        buffers = dict(self.module.named_buffers())
        mine = [buffers[name] for name in self.begin]
        answers, after = [], [np.empty_like(each) for each in state]
        with torch.no_grad():
            for row in range(len(obs)):
                for buffer, each in zip(mine, state, strict=True):
                    buffer.copy_(torch.from_numpy(np.ascontiguousarray(each[row])))
                found = self.module(torch.from_numpy(np.array(obs[row : row + 1])))
                answers.append(_array(found).reshape(1, -1))
                held = dict(self.module.named_buffers())
                for kept, name in zip(after, self.begin, strict=True):
                    kept[row] = held[name].numpy()
        return self.meaning(np.concatenate(answers), len(obs)), tuple(after)


def _array(found: Any) -> Any:
    """The answer of a module as an array; a tuple's first item is the action."""
    import torch

    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, torch.Tensor) or found.is_complex():
        told = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
        raise PlannerError(f"The module answered with a {told}, not a tensor of numbers.")
    # A copy: the module may write its next answer into the same place.
    return np.array(found.detach().numpy())
