"""A planner for Pendulum-v1 that is told motor, length and mass: planner.zip and its recipe."""
