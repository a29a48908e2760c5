"""Measuring: evaluation, intervals, latency, agreement."""
