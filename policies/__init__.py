"""Planners of ours, with their recipes; written against agentkd as yours would be."""
