"""Executors in WebAssembly: the exported C, compiled without a C library, and its loader."""
