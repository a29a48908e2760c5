"""The commands, each a dataclass of options and a function."""
