"""Executors in integers: int8 weights, int16 activations; docs/int8.md is the law."""
