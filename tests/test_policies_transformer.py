"""The Transformer for LunarLander-v3, and the recipe that makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentkd.executors.network import Trace
from agentkd.measure.evaluate import evaluate
from agentkd.planners import load_planner
from agentkd.planners.torch_view import opened
from agentkd.types import Categorical
from benchmarks.planners import find_cases
from policies import transformer
from policies.transformer.train import ENVIRONMENT, train

FOLDER = Path(transformer.__file__).parent


def test_it_answers_with_distributions_and_can_be_looked_into() -> None:
    """Choices for a batch; three blocks of four heads over eight tokens."""
    policy: Any = load_planner(str(FOLDER)).policy
    obs = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    answer = policy(obs)
    assert isinstance(answer, Categorical)
    assert answer.logits.shape == (5, 4)
    trace = Trace()
    packed = opened(policy, "test").answer(torch.from_numpy(obs), trace)
    assert np.allclose(packed.numpy(), answer.logits, atol=1e-4)
    assert [block[0].shape for block in trace.relations] == 3 * [(5, 4, 8, 8)]


def test_it_lands() -> None:
    """Two seeded flights reach what counts as solved."""
    policy = load_planner(str(FOLDER / "planner.akd")).policy
    returns = evaluate(ENVIRONMENT, policy, episodes=2, seed=1000).returns
    assert min(returns) > 200


def test_a_bench_finds_it_by_what_its_file_says() -> None:
    """The folder's name tells no environment; the file does."""
    found = {case.name: case for case in find_cases(FOLDER.parent)}
    assert found["transformer"].env == ENVIRONMENT
    assert "freeway" not in found


def test_the_recipe_repeats_itself() -> None:
    """The same seed gives the same network."""
    first, second = (train("attention:4/2/1", 64, 0.2, 3).vector() for _ in range(2))
    assert np.array_equal(first, second)
