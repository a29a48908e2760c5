"""Distillation and Stable-Baselines3: models in, models out, callbacks."""
