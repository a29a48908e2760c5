"""Benchmarks of real time: delays, ticks, seams, faults, tables over latencies."""
