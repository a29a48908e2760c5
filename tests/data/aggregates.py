"""Write aggregates.json: scores, and what rliable says of them.

It needs `pip install rliable==1.2.0` in an environment of its own: python tests/data/aggregates.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rliable import library, metrics

_TAUS = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def main() -> None:
    """Write the file beside this one."""
    draw = np.random.default_rng(3)
    mine = np.round(draw.normal([0.4, 0.8, 1.0, 0.9], [0.1, 0.3, 0.05, 0.4], (8, 4)), 1)
    theirs = np.round(draw.normal([0.3, 0.7, 1.0, 1.0], [0.2, 0.2, 0.05, 0.2], (8, 4)), 1)
    both = {"mine": mine, "theirs": theirs}
    _, ends = library.get_interval_estimates(
        {"mine": mine},
        lambda scores: np.array([metrics.aggregate_iqm(scores)]),
        reps=50_000,
        random_state=np.random.RandomState(0),
    )
    better, better_ends = library.get_interval_estimates(
        {"pair": (mine, theirs)},
        metrics.probability_of_improvement,
        reps=2_000,
        random_state=np.random.RandomState(0),
    )
    profile, profile_ends = library.create_performance_profile(
        {"mine": mine}, np.array(_TAUS), reps=20_000
    )
    few = [draw.normal(size=size).tolist() for size in (1, 3, 4, 7, 8)]
    told = {
        "scores": {name: each.tolist() for name, each in both.items()},
        "iqm": float(metrics.aggregate_iqm(mine)),
        "iqm_interval": [float(each[0]) for each in ends["mine"]],
        "improvement": float(np.squeeze(better["pair"])),
        "improvement_interval": [float(each) for each in np.ravel(better_ends["pair"])],
        "taus": _TAUS,
        "profile": profile["mine"].tolist(),
        "profile_interval": [each.tolist() for each in profile_ends["mine"]],
        "few": [(each, float(metrics.aggregate_iqm(np.array(each)))) for each in few],
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
