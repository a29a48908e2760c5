"""Measuring: evaluation, arms, latencies, clocks, and the reports of all of them."""
