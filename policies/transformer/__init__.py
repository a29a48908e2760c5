"""A Transformer that flies LunarLander-v3: planner.akd, its card and its recipe."""
