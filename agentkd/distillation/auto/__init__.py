"""The search for the smallest executor that is good enough."""
