"""Planners: what thinks well and slowly, from any source, as one type."""

from agentkd.planners.load import load_planner, load_policy
from agentkd.planners.planner import Planner

__all__ = ["Planner", "load_planner", "load_policy"]
