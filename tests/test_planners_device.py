"""Torch planners on a device of one's choice."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agentkd.distillation import CollectionOptions
from agentkd.dists import pack
from agentkd.errors import ConfigError
from agentkd.planners.adapt import ModulePolicy
from agentkd.planners.device import moved, on_device
from agentkd.planners.sb3.build import Head, Sb3Policy
from agentkd.planners.sb3.inputs import Inputs
from agentkd.planners.sb3.network import Linear, Perceptron
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), BoxSpec((-1.0, -2.0), (1.0, 2.0), (2,)))
META = torch.device("meta")


def tower(*sizes: int) -> Perceptron:
    """Make layers of drawn weights."""
    generator = torch.Generator().manual_seed(sum(sizes))
    pairs = itertools.pairwise(sizes)
    layers = [
        Linear(torch.randn(out, size, generator=generator), torch.randn(out, generator=generator))
        for size, out in pairs
    ]
    return Perceptron(tuple(layers), torch.relu_)


HEADS = {
    "squashed": Head("squashed", tower(8, 2), SPEC.action, deviation=tower(8, 2), limit=2.0),
    "gaussian": Head("gaussian", tower(8, 2), SPEC.action, log_std=torch.zeros(2)),
    "gsde": Head("squashed", tower(8, 2), SPEC.action, log_std=torch.ones(8, 2), use_expln=True),
    "tanh": Head("point", tower(8, 2), SPEC.action, squash=True),
    "clipped": Head("point", tower(8, 2), SPEC.action),
}


def sb3(head: str) -> Sb3Policy:
    return Sb3Policy(Inputs((), None, 3), tower(3, 8), HEADS[head])


def module() -> ModulePolicy:
    torch.manual_seed(0)
    return ModulePolicy(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), SPEC)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_moved_whole(head: str) -> None:
    """Nothing of a policy that was moved stays on the processor."""
    there = moved(sb3(head), META)
    obs = torch.zeros((5, 3), device=META)
    assert there.device == META
    assert there.head(there.trunk(obs)).device.type == "meta"


@pytest.mark.parametrize("policy", [sb3("squashed"), sb3("gsde"), module()])
def test_a_copy_answers_the_same(policy: Any) -> None:
    """And the original stays where it is."""
    obs = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    there = moved(policy, torch.device("cpu"))
    assert np.array_equal(pack(there(obs)), pack(policy(obs)))
    moved(policy, META)
    assert np.isfinite(pack(policy(obs))).all()


CPU = torch.device("cpu")


class Fussy(nn.Module):
    """Has a constant that is not a buffer, and stays where it is when the module moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.mean = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x - self.mean)  # type: ignore[no-any-return]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Let a second place on the processor stand in for a GPU; return what was moved there."""
    there: list[torch.device] = []

    def to(policy: Any, device: torch.device) -> Any:
        there.append(device)
        return moved(policy, CPU)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("agentkd.planners.device.moved", to)
    return there


def test_auto_takes_a_gpu_for_what_is_large(
    gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its parameters times the rows; without a GPU nothing is moved."""
    policy, large = module(), 1_000_000
    assert on_device(policy, "auto", 16, SPEC) is policy
    assert on_device(policy, "cpu", large, SPEC) is policy
    assert gpu == []
    assert on_device(policy, "auto", large, SPEC) is not policy
    assert on_device(policy, "cuda", 1, SPEC) is not policy
    assert gpu == [torch.device("cuda")] * 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert on_device(policy, "auto", large, SPEC) is policy


def test_what_fails_on_a_gpu_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A module with a constant of its own raises there: "auto" says so, "cuda" is refused."""
    policy = ModulePolicy(Fussy(), SPEC)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("agentkd.planners.device.moved", lambda each, _: moved(each, META))
    with caplog.at_level("WARNING"):
        assert on_device(policy, "auto", 10_000_000, SPEC) is policy
    assert "answers on the processor: on the GPU it raises" in caplog.text
    with pytest.raises(ConfigError, match=r"there the planner raises .*register_buffer"):
        on_device(policy, "cuda", 1, SPEC)


def test_what_answers_otherwise_on_a_gpu_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are compared, not only whether there are some."""
    policy = module()

    def other(each: ModulePolicy, _: torch.device) -> ModulePolicy:
        there: ModulePolicy = moved(each, CPU)
        with torch.no_grad():
            there.module[2].bias += 0.2
        return there

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("agentkd.planners.device.moved", other)
    assert on_device(policy, "auto", 10_000_000, SPEC) is policy
    with pytest.raises(ConfigError, match=r"there the planner answers .* instead of"):
        on_device(policy, "cuda", 1, SPEC)


def test_what_is_not_moved_stays_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function answers where it is; the wish for a GPU is refused with the reason."""

    def policy(obs: Any, /) -> Any:
        return obs

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert on_device(policy, "auto", 1_000_000, SPEC) is policy
    with pytest.raises(ConfigError, match=r"a function answers where it was made"):
        on_device(policy, "cuda", 1, SPEC)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is collected; so is a device that nobody knows."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"finds no GPU here. Give cpu or auto"):
        CollectionOptions(device="cuda")
    with pytest.raises(ConfigError, match=r"No device 'cud'.*cuda"):
        CollectionOptions(device="cud")  # type: ignore[arg-type]
