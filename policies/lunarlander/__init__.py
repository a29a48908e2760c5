"""The LunarLander-v3 planner: planner.zip, its card and how to train it again."""
