"""Benchmarks that are declared in small files, cell by cell, each finished one a row."""
