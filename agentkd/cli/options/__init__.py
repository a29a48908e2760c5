"""The options of commands that take several modules."""
