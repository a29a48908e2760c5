"""Environments by name, checked: what they return is what they declare."""

from agentkd.environments.making import (
    Environment,
    check_name,
    folder_name,
    label,
    look_at,
    make,
    named_by_file,
    split,
    with_arguments,
)

__all__ = [
    "Environment",
    "check_name",
    "folder_name",
    "label",
    "look_at",
    "make",
    "named_by_file",
    "split",
    "with_arguments",
]
