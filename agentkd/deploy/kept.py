"""Kept labels: a sample of the labels that an executor was made from, in its file.

A distiller that goes on learning live mixes them into its batches and measures each candidate on
them, so that an executor does not forget what it was distilled for. Those of an executor with a
stack or a delay are of all that it is shown of the past (`agentkd.executors.past`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import LoadError, NumbersError, SpecError
from agentkd.fields import Fields
from agentkd.spec import Spec
from agentkd.types import Floats, Kind, Labels

ENTRY = "labels"
"""The name of the bundle's entry, and of its key in the manifest."""
BYTES = 1_000_000
"""What kept labels take by default, in bytes."""


def capacity(spec: Spec, kind: Kind, size: int = BYTES) -> int:
    """Return how many labels fit into `size` bytes."""
    return size // (4 * (spec.obs.size + dists.width(kind, spec.action)))


def lay_out(labels: Labels, spec: Spec) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return the manifest's value and the tensors "obs" and "dist" of labels.

    Raises:
        SpecError: If they do not fit the executor's spec.
        NumbersError: If a number is NaN or infinite.
    """
    _check(labels, spec)
    packed = np.ascontiguousarray(dists.pack(labels.dist), np.float32)
    held = {"obs": np.ascontiguousarray(labels.obs, np.float32), "dist": packed}
    about = {"count": len(packed), "kind": dists.kind_of(labels.dist)}
    return about, held


def read(about: Any, tensors: Mapping[str, Floats], spec: Spec) -> Labels:
    """Read what `lay_out` gave, as it was found in a file.

    Raises:
        LoadError: If it does not fit the executor's spec, or holds NaN or infinity.
    """
    fields = Fields(about, "Its kept labels")
    kind = cast(Kind, fields.choice("kind", get_args(Kind)))
    count = fields.whole("count", least=1)
    if set(tensors) != {"obs", "dist"} or any(
        held.dtype != np.float32 or held.shape[:1] != (count,) or held.ndim != 2
        for held in tensors.values()
    ):
        raise LoadError(
            f"Its {count} kept labels are not the tensors 'obs' and 'dist' of as many "
            "rows of float32."
        )
    try:
        labels = Labels(tensors["obs"], dists.unpack(kind, tensors["dist"], spec.action))
        _check(labels, spec)
    except (NumbersError, SpecError) as error:
        raise LoadError(f"Its kept labels do not fit: {error}") from error
    return labels


def _check(labels: Labels, spec: Spec) -> None:
    obs = labels.obs
    if obs.ndim != 2 or obs.shape[1] != spec.obs.size:
        raise SpecError(
            f"Kept labels have observations of shape {obs.shape}; (labels, {spec.obs.size}) fits."
        )
    if not np.isfinite(obs).all():
        raise NumbersError("A kept label's observation holds NaN or infinity.")
    dists.check(labels.dist, spec.action, len(obs))
