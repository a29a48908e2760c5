"""A planner on another machine."""
