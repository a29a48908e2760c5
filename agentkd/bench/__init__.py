"""Measuring: evaluation, intervals and retention, latency, reports."""
