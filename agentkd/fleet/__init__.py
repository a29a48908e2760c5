"""Executors for many devices: a server that delivers them in waves, and what a device answers."""
