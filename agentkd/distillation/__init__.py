"""Distillation: labels in, executor weights out.

Names are imported when they are first used: a process that only collects labels starts without
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkd.lazy import lazily

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
    "CollectionOptions": "agentkd.distillation.sources",
    "Collector": "agentkd.distillation.collector",
    "DatasetWriter": "agentkd.distillation.recording",
    "Distilled": "agentkd.distillation.loop",
    "Distiller": "agentkd.distillation.distiller",
    "DistillerOptions": "agentkd.distillation.distiller",
    "Progress": "agentkd.distillation.progress",
    "Returns": "agentkd.distillation.task",
    "Task": "agentkd.distillation.task",
    "aged_labels": "agentkd.distillation.goal_labels",
    "open_dataset": "agentkd.distillation.offline",
    "open_task": "agentkd.distillation.task",
    "record": "agentkd.distillation.recording",
    "run_distillation": "agentkd.distillation.loop",
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

__getattr__, __dir__ = lazily(__name__, _HOMES)
