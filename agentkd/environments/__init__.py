"""Environments by name, checked: what they return is what they declare."""

from agentkd.environments.making import (
    check_name,
    folder_name,
    look_at,
    make,
    named_by_file,
    split,
    with_arguments,
)

__all__ = [
    "check_name",
    "folder_name",
    "look_at",
    "make",
    "named_by_file",
    "split",
    "with_arguments",
]
