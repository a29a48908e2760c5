"""A GRU along sequences in compiled C, with its gradient, for torch.

torch's own loop launches some operators for each tick and back, which takes most of a gradient
step. Here they are one call each, into `recurrence.c`; the products that need no loop stay torch's.
Both agree within float error.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from agentkd.executors.native import compiled
from agentkd.executors.plan import up

_SOURCE = Path(__file__).with_name("recurrence.c")
_BLOCK, _ROWS = 16, 12
"""Floats of a vector; rows that a product goes through beyond the last."""
_FLAGS = ("-fno-math-errno", "-fno-trapping-math", f"-DMOST_TILE={_ROWS}")
_Function: Any = torch.autograd.Function
_FUNCTIONS = ("akd_gru_forward", "akd_gru_backward")


@cache
def _library() -> ctypes.CDLL | None:
    library = compiled(
        _SOURCE, _FUNCTIONS, *_FLAGS, what="The native recurrence", instead="torch runs"
    )
    if library is not None:
        numbers = [ctypes.c_int32] * 3
        for name, arrays in zip(_FUNCTIONS, (6, 7), strict=True):
            function = getattr(library, name)
            function.argtypes = [*numbers, *[ctypes.c_void_p] * arrays]
            function.restype = None
    return library


def gru(x: Tensor, start: Tensor, weights: list[Tensor], *, twice: bool = False) -> Tensor | None:
    """Go through sequences from a start.

    Args:
        x: (ticks, batch, in), float32.
        start: The state before the first tick, (batch, width).
        weights: Of inputs and of the state, and their biases, as `torch.gru` takes them.
        twice: Whether gradients may be derived once more.

    Returns:
        The state after each tick, (ticks, batch, width); None where torch has to do it: there is
        no compiler, numbers are not float32 in this machine's memory, or gradients may be derived
        once more.
    """
    plain = all(each.dtype == torch.float32 and each.is_cpu for each in (x, start, *weights))
    if twice or not x.numel() or not plain or torch.is_autocast_enabled("cpu"):
        return None
    if _library() is None:
        return None
    inputs, hidden, inputs_bias, hidden_bias = weights
    width = hidden.shape[1]
    more = up(width, _BLOCK) - width
    if more:
        # A unit whose numbers are all 0 stays at 0.
        inputs = _padded(inputs, (0, 0, 0, more))
        hidden = _padded(hidden, (0, more, 0, more))
        inputs_bias, hidden_bias = (_padded(each, (0, more)) for each in (inputs_bias, hidden_bias))
        start = functional.pad(start, (0, more))
    found: Tensor = _Gru.apply(
        functional.linear(x, inputs, inputs_bias), start, hidden, hidden_bias
    )
    return found[..., :width] if more else found


def _padded(weight: Tensor, pad: tuple[int, ...]) -> Tensor:
    """Add zeros to each of the three parts that a weight or bias is made of."""
    return functional.pad(weight.unflatten(0, (3, -1)), pad).flatten(0, 1)


class _Gru(_Function):  # type: ignore[misc]
    """What has to go tick by tick."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        """Take inputs (ticks, batch, 3 width), start, weight and bias of the state."""
        inputs, start, weight, bias = (each.contiguous() for each in given)
        ticks, batch, width = inputs.shape[0], inputs.shape[1], start.shape[1]
        hidden = torch.zeros(((ticks + 1) * batch + _ROWS, width), dtype=torch.float32)
        hidden[:batch] = start
        gates = torch.empty((ticks, batch, 4 * width), dtype=torch.float32)
        by_input = weight.t().contiguous()
        sums = torch.empty((batch + _ROWS, 3 * width), dtype=torch.float32)
        arrays = (hidden, inputs, by_input, bias, gates, sums)
        library = _library()
        assert library is not None
        library.akd_gru_forward(ticks, batch, width, *(each.data_ptr() for each in arrays))
        ctx.save_for_backward(hidden, gates, weight)
        return hidden[batch : (ticks + 1) * batch].view(ticks, batch, width)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of what `forward` took."""
        hidden, gates, weight = ctx.saved_tensors
        ticks, batch, width = gates.shape[0], gates.shape[1], weight.shape[1]
        inputs = torch.empty((ticks, batch, 3 * width), dtype=torch.float32)
        sums = torch.zeros((ticks * batch + _ROWS, 3 * width), dtype=torch.float32)
        carry = torch.zeros((batch + _ROWS, width), dtype=torch.float32)
        arrays = (hidden, gates, weight, given[0].contiguous(), inputs, sums, carry)
        library = _library()
        assert library is not None
        library.akd_gru_backward(ticks, batch, width, *(each.data_ptr() for each in arrays))
        sums = sums[: ticks * batch]
        return inputs, carry[:batch], sums.t() @ hidden[: ticks * batch], sums.sum(0)
