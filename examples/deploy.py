"""An executor file at work: load it, act, export it as C.

It needs NumPy, and a C compiler if there is one. Run it where sb3_model.py wrote executor.akd.
"""

from __future__ import annotations

import numpy as np

import agentkd


def main() -> None:
    """Act once and export."""
    obs = np.array([0.0, 0.1, 0.02, -0.1], np.float32)  # CartPole's: cart and pole

    executor = agentkd.load("executor.akd")  # native if there is a compiler; memory inside
    action = executor.act(obs)
    executor.reset()
    executor.export("executor.c")  # the suffix decides

    print(f"action {action}")
    print("written: executor.c, executor.h")


if __name__ == "__main__":
    main()
