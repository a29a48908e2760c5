"""Distillation: labels in, executor weights out.

Names are imported when they are first used: a process that only collects labels starts without
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.distillation.collector import Collector
    from agentkd.distillation.distiller import Distiller, DistillerOptions
    from agentkd.distillation.goal_labels import aged_labels
    from agentkd.distillation.loop import Distilled, run_distillation
    from agentkd.distillation.offline import open_dataset
    from agentkd.distillation.progress import Progress
    from agentkd.distillation.recording import DatasetWriter, record
    from agentkd.distillation.sources import CollectionOptions
    from agentkd.distillation.task import Returns, Task, open_task

_HOMES = {
    "CollectionOptions": "sources",
    "Collector": "collector",
    "DatasetWriter": "recording",
    "Distilled": "loop",
    "Distiller": "distiller",
    "DistillerOptions": "distiller",
    "Progress": "progress",
    "Returns": "task",
    "Task": "task",
    "aged_labels": "goal_labels",
    "open_dataset": "offline",
    "open_task": "task",
    "record": "recording",
    "run_distillation": "loop",
}

__all__ = [
    "CollectionOptions",
    "Collector",
    "DatasetWriter",
    "Distilled",
    "Distiller",
    "DistillerOptions",
    "Progress",
    "Returns",
    "Task",
    "aged_labels",
    "open_dataset",
    "open_task",
    "record",
    "run_distillation",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agentkd.distillation' has no attribute {name!r}")
    return getattr(import_module(f"agentkd.distillation.{_HOMES[name]}"), name)
