"""A page in a browser of this machine that shows an agent while it lives."""
