"""Distillation: labels in, executor weights out.

Importing it brings torch in; `agentkd.distill.service` is what another process builds.
"""

from agentkd.distill.collector import Collector
from agentkd.distill.distiller import Distiller, DistillerOptions
from agentkd.distill.divergence import DivergenceOptions
from agentkd.distill.loop import Budget, Distilled, distill
from agentkd.distill.progress import Progress
from agentkd.distill.source import CollectionOptions

__all__ = [
    "Budget",
    "CollectionOptions",
    "Collector",
    "Distilled",
    "Distiller",
    "DistillerOptions",
    "DivergenceOptions",
    "Progress",
    "distill",
]
