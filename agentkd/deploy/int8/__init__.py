"""Executors in integers: int8 weights, int16 activations; docs/reference/int8.md is the law."""
