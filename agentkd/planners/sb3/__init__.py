"""Stable-Baselines3 planners: saves read without unpickling, live models."""
