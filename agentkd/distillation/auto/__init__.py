"""The smallest executor that keeps enough of a planner."""
