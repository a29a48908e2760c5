"""The planner of the drawn cheetah: planner.zip, its statistics and how to train it again."""
