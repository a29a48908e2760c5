"""Distillation: labels in, executor weights out.

Names are imported when they are first used: a process that only collects labels starts without
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.distillation.collector import Collector
    from agentkd.distillation.dataset_writer import DatasetWriter
    from agentkd.distillation.distiller import Distiller, DistillerOptions
    from agentkd.distillation.goal_labels import aged_labels
    from agentkd.distillation.loop import Budget, Distilled, distill
    from agentkd.distillation.offline import distill_dataset, open_dataset
    from agentkd.distillation.progress import Progress
    from agentkd.distillation.recording import record
    from agentkd.distillation.source import CollectionOptions

_HOMES = {
    "Budget": "agentkd.distillation.loop",
    "CollectionOptions": "agentkd.distillation.source",
    "Collector": "agentkd.distillation.collector",
    "DatasetWriter": "agentkd.distillation.dataset_writer",
    "Distilled": "agentkd.distillation.loop",
    "Distiller": "agentkd.distillation.distiller",
    "DistillerOptions": "agentkd.distillation.distiller",
    "Progress": "agentkd.distillation.progress",
    "aged_labels": "agentkd.distillation.goal_labels",
    "distill": "agentkd.distillation.loop",
    "distill_dataset": "agentkd.distillation.offline",
    "open_dataset": "agentkd.distillation.offline",
    "record": "agentkd.distillation.recording",
}

__all__ = [
    "Budget",
    "CollectionOptions",
    "Collector",
    "DatasetWriter",
    "Distilled",
    "Distiller",
    "DistillerOptions",
    "Progress",
    "aged_labels",
    "distill",
    "distill_dataset",
    "open_dataset",
    "record",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agentkd.distillation' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
