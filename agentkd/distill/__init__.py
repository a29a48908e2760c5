"""Distillation: labels in, executor weights out.

Names are imported when they are first used: a process that only collects labels starts
without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.distill.aged import aged_labels
    from agentkd.distill.collector import Collector
    from agentkd.distill.dataset_writer import DatasetWriter
    from agentkd.distill.distiller import Distiller, DistillerOptions
    from agentkd.distill.loop import Budget, Distilled, distill
    from agentkd.distill.offline import distill_dataset, open_dataset
    from agentkd.distill.progress import Progress
    from agentkd.distill.recording import record
    from agentkd.distill.source import CollectionOptions

_HOMES = {
    "Budget": "agentkd.distill.loop",
    "CollectionOptions": "agentkd.distill.source",
    "Collector": "agentkd.distill.collector",
    "DatasetWriter": "agentkd.distill.dataset_writer",
    "Distilled": "agentkd.distill.loop",
    "Distiller": "agentkd.distill.distiller",
    "DistillerOptions": "agentkd.distill.distiller",
    "Progress": "agentkd.distill.progress",
    "aged_labels": "agentkd.distill.aged",
    "distill": "agentkd.distill.loop",
    "distill_dataset": "agentkd.distill.offline",
    "open_dataset": "agentkd.distill.offline",
    "record": "agentkd.distill.recording",
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
        raise AttributeError(f"module 'agentkd.distill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
