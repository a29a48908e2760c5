"""Planners that search: exact, tree, model-predictive control."""
