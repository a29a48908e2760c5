"""The distiller learns, keeps its head when labels do not, and goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agentkd.distillation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.engine import EngineName
from agentkd.distillation.native_engine import NativeEngine
from agentkd.distillation.torch_engine import TorchEngine
from agentkd.errors import ConfigError, LoadError, SpecError, WriteError
from agentkd.executors.architecture import initial
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats, Point

SPEC = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(3))
RULE = np.array([[1, 0, 0, 0.5], [0, 1, 0, -0.5], [0, 0, 1, 0]], np.float32)


def states(seed: int, count: int = 512) -> Floats:
    """Draw observations far from zero and of unlike scales."""
    random = np.random.default_rng(seed)
    raw = random.standard_normal((count, 4)) * [1, 10, 0.1, 1] + [5, 0, 0, -3]
    return raw.astype(np.float32)


def planner(obs: Floats) -> Categorical:
    """Choose by a linear rule of the standardised observation."""
    z = (obs - [5, 0, 0, -3]) / [1, 10, 0.1, 1]
    return Categorical((4 * z @ RULE.T).astype(np.float32))


def learnt(steps: int = 400, seed: int = 0, engine: EngineName = "auto") -> Distiller:
    """Distil the rule."""
    options = DistillerOptions(batch=128, seed=seed, engine=engine)
    distiller = Distiller(initial("mlp:32", SPEC, seed=seed), options)
    distiller.add(states(1), planner(states(1)))
    for step in range(steps):
        distiller.schedule(step / steps)
        distiller.step()
    return distiller


def spoil(distiller: Distiller) -> None:
    """Make all weights NaN, those of the average left out."""
    engine = distiller.engine
    if isinstance(engine, NativeEngine):
        engine._weights[:] = np.nan
        return
    assert isinstance(engine, TorchEngine)
    with torch.no_grad():
        for weight in engine.network.parameters():
            weight.fill_(float("nan"))


def test_an_executor_learns_to_agree_with_its_planner() -> None:
    """On states it never saw it makes the planner's choice nearly always."""
    executor = learnt().freeze()
    fresh = states(2)
    mine = executor(fresh)
    assert isinstance(mine, Categorical)
    same = mine.logits.argmax(1) == planner(fresh).logits.argmax(1)
    assert same.mean() > 0.95


def test_the_same_seed_gives_the_same_executor() -> None:
    """Nothing but the seed decides what is drawn."""
    one, two, other = (learnt(50, seed).snapshot() for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_without_labels_there_is_nothing_to_learn() -> None:
    """step() says so by giving nothing, and changes nothing."""
    distiller = Distiller(initial("mlp:8", SPEC))
    before = distiller.snapshot()
    assert distiller.step() == {}
    distiller.add(states(0, 10), planner(states(0, 10)))
    assert distiller.step() == {}
    assert np.array_equal(distiller.snapshot(), before)


def test_the_normaliser_follows_the_labels() -> None:
    """Mean and scale are those of the observations that were labelled."""
    executor = learnt(1).freeze()
    obs = states(1)
    assert np.allclose(executor.mean, obs.mean(0), rtol=1e-4)
    assert np.allclose(executor.scale * obs.std(0), 1.0, rtol=1e-4)


def test_a_number_that_never_moves_keeps_its_own_unit() -> None:
    """A constant observation is not blown up when it moves at last."""
    distiller = Distiller(initial("mlp:8", SPEC))
    obs = states(0)
    obs[:, 2] = 7.0
    distiller.add(obs, planner(obs))
    distiller.step()
    assert distiller.freeze().scale[2] == 1.0


def test_units_do_not_matter() -> None:
    """A choice among three inputs is learnt beside others a thousand times as large."""
    spec = Spec(ObsSpec((Part("", "box", (8,), "float32"),)), DiscreteSpec(3))

    def made(seed: int) -> tuple[Floats, Categorical]:
        random = np.random.default_rng(seed)
        small, large = random.standard_normal((2, 2048, 8)).astype(np.float32)
        obs = np.concatenate([small[:, :3], 1000 + 1000 * large[:, 3:]], axis=1)
        return obs, Categorical(4 * small[:, :3])

    distiller = Distiller(initial("mlp:32", spec), DistillerOptions(batch=128))
    obs, dist = made(1)
    for start in range(0, 2048, 64):
        piece = slice(start, start + 64)
        distiller.add(obs[piece], Categorical(dist.logits[piece]))
        for _ in range(30):
            distiller.step()
    fresh, said = made(2)
    mine = distiller.freeze()(fresh)
    assert isinstance(mine, Categorical)
    assert (mine.logits.argmax(1) == said.logits.argmax(1)).mean() > 0.9


def test_an_executor_that_is_gone_on_from_keeps_its_normaliser() -> None:
    """A few new labels do not change what it does."""
    trained = learnt().freeze()
    other = Distiller(trained, DistillerOptions(batch=32))
    obs = states(5, 64) * 100
    other.add(obs, planner(obs))
    other.step()
    assert np.array_equal(other.freeze().mean, trained.mean)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_weights_that_are_no_numbers_go_back_to_the_last_good_ones(engine: EngineName) -> None:
    """A step that ends in NaN is counted and undone; learning goes on."""
    distiller = learnt(100, engine=engine)
    spoil(distiller)
    distiller.step()
    assert distiller.rejected == 1
    assert np.isfinite(distiller.snapshot()).all()
    for _ in range(50):
        distiller.step()
    assert distiller.rejected == 1
    assert np.isfinite(distiller.snapshot()).all()


def test_labels_that_are_no_numbers_do_not_reach_the_weights() -> None:
    """A planner that says NaN teaches nothing."""
    distiller = learnt(20)
    obs = states(3)
    distiller.add(obs, Categorical(np.full((len(obs), 3), np.nan, np.float32)))
    for _ in range(20):
        distiller.step()
    assert distiller.buffer.refused == len(obs)
    assert np.isfinite(distiller.snapshot()).all()


def test_a_point_planner_is_followed_in_a_box() -> None:
    """A continuous rule is learnt to within a few hundredths of the box."""
    box = BoxSpec((-2.0,), (2.0,), (1,))
    spec = Spec(SPEC.obs, box)
    distiller = Distiller(initial("mlp:32", spec), DistillerOptions(batch=128))

    def rule(obs: Floats) -> Floats:
        return np.asarray(np.clip(obs[:, :1] - 5.0, -1.5, 1.5), np.float32)

    distiller.add(states(1), Point(rule(states(1))))
    for step in range(600):
        distiller.schedule(step / 600)
        distiller.step()
    fresh = states(2)
    answer = distiller.freeze()(fresh)
    assert isinstance(answer, Point)
    assert np.abs(answer.action - rule(fresh)).mean() < 0.15


def test_a_warm_start_goes_on_from_those_weights() -> None:
    """What a restarted distiller gives first is what was published last."""
    vector = learnt(100).snapshot()
    other = Distiller(initial("mlp:32", SPEC, seed=5))
    other.warm_start(vector)
    assert np.array_equal(other.snapshot(), vector)
    with pytest.raises(SpecError):
        other.warm_start(vector[:-1])


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_warm_start_may_keep_the_optimiser(engine: EngineName) -> None:
    """Adam's state and the learning rate go on; else both begin anew. The average always does."""
    distiller = learnt(100, engine=engine)
    rate = distiller.step()["learning_rate"]
    distiller.warm_start(distiller.snapshot(), afresh=False)
    assert distiller.step()["learning_rate"] == rate
    assert int(distiller.state()["adam"]["state"][0]["step"]) == 102
    # The first step's weights are all of a new average.
    kept = distiller.state()
    assert torch.allclose(list(kept["network"].values())[-1], kept["average"][-1])
    distiller.warm_start(distiller.snapshot())
    assert distiller.step()["learning_rate"] < rate
    assert int(distiller.state()["adam"]["state"][0]["step"]) == 1


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    """Weights, averages, labels, steps and time are as they were."""
    distiller = learnt(100)
    save_checkpoint(tmp_path, distiller, Checkpoint(seconds=12.5))
    other = Distiller(initial("mlp:32", SPEC, seed=9), distiller.options)
    assert load_checkpoint(tmp_path, other).seconds == 12.5
    assert np.array_equal(other.snapshot(), distiller.snapshot())
    assert (other.steps, other.buffer.seen) == (100, 512)
    assert other.step() != {}


ALL = "0.7 soft:tau=auto + 0.3 hard + 0.1 adversarial + 0.5 robust:by=fgsm"


def test_all_terms_together_still_learn_the_planner() -> None:
    """What stands beside the floor does not keep the executor from agreeing."""
    options = DistillerOptions(batch=128, terms=ALL)
    distiller = Distiller(initial("mlp:32", SPEC, seed=0), options)
    distiller.add(states(1), planner(states(1)))
    for step in range(300):
        distiller.schedule(step / 300)
        metrics = distiller.step()
    assert metrics.keys() >= {
        *("divergence", "learning_rate", "soft.tau", "adversarial.told"),
        "robust.apart",
    }
    mine = distiller.freeze()(states(2))
    assert isinstance(mine, Categorical)
    same = mine.logits.argmax(1) == planner(states(2)).logits.argmax(1)
    assert same.mean() > 0.93


def test_a_checkpoint_brings_what_terms_learnt_back(tmp_path: Path) -> None:
    """The adversary goes on where it was; of other terms it is left behind."""
    options = DistillerOptions(batch=128, terms="match + 0.1 adversarial")
    distiller = Distiller(initial("mlp:8", SPEC), options)
    distiller.add(states(1), planner(states(1)))
    for _ in range(30):
        distiller.step()
    save_checkpoint(tmp_path, distiller, Checkpoint())
    for terms, same in (("match + 0.1 adversarial", True), ("match", False)):
        other = Distiller(initial("mlp:8", SPEC), DistillerOptions(batch=128, terms=terms))
        load_checkpoint(tmp_path, other)
        assert (len(other.state()["objective"]) > 1) == same
        if same:
            for key, value in distiller.state()["objective"].items():
                if isinstance(value, torch.Tensor):
                    found = other.state()["objective"][key]
                    assert torch.equal(found, value) or value.isnan().all()


def test_an_adversary_that_is_no_number_is_undone_too() -> None:
    """A step that ends in NaN gives back the terms as they were."""
    options = DistillerOptions(batch=64, terms="match + 0.1 adversarial")
    distiller = Distiller(initial("mlp:8", SPEC), options)
    distiller.add(states(1), planner(states(1)))
    for _ in range(70):
        distiller.step()
    assert isinstance(distiller.engine, TorchEngine)
    assert distiller.engine.objective is not None
    with torch.no_grad():
        for weight in distiller.engine.objective.parameters():
            weight.fill_(float("nan"))
    distiller.step()
    assert distiller.rejected == 1
    for _ in range(10):
        distiller.step()
    assert distiller.rejected == 1
    assert np.isfinite(distiller.snapshot()).all()


def test_terms_that_do_not_fit_the_labels_are_refused_early() -> None:
    """When it is known what the planner answers with, before any label."""
    distiller = Distiller(initial("mlp:8", SPEC), DistillerOptions(terms="action"))
    with pytest.raises(ConfigError, match="Use 'soft' or 'hard'"):
        distiller.expect("categorical")


def test_a_checkpoint_of_another_executor_is_refused(tmp_path: Path) -> None:
    """The message names both architectures."""
    save_checkpoint(tmp_path, learnt(5), Checkpoint(seconds=1))
    with pytest.raises(LoadError, match=r"mlp:32, .*this one is mlp:16"):
        load_checkpoint(tmp_path, Distiller(initial("mlp:16", SPEC)))


def test_a_checkpoint_of_another_planner_is_refused(tmp_path: Path) -> None:
    """Labels of two planners do not mix."""
    save_checkpoint(tmp_path, learnt(5), Checkpoint(planner="one", seconds=1))
    mine = Distiller(initial("mlp:32", SPEC))
    with pytest.raises(LoadError, match="another planner"):
        load_checkpoint(tmp_path, mine, Checkpoint(planner="two"))


def test_a_missing_or_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    """A half-written file is no surprise."""
    distiller = learnt(5)
    with pytest.raises(LoadError, match="no checkpoint"):
        load_checkpoint(tmp_path, distiller)
    save_checkpoint(tmp_path, distiller, Checkpoint(seconds=1))
    file = tmp_path / "distiller.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(LoadError, match="damaged"):
        load_checkpoint(tmp_path, distiller)


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed save says which file, and the earlier one still loads."""
    distiller = learnt(5)
    save_checkpoint(tmp_path, distiller, Checkpoint(seconds=1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agentkd.distillation.checkpoint.torch.save", full)
    with pytest.raises(WriteError, match="No space left"):
        save_checkpoint(tmp_path, distiller, Checkpoint(seconds=2))
    assert load_checkpoint(tmp_path, distiller).seconds == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "before",
        "distiller.pt",
        "labels.npz",
    ]


def test_options_that_cannot_be_meant_are_refused() -> None:
    """Batches have labels, rates are above zero."""
    with pytest.raises(ConfigError):
        DistillerOptions(batch=0)
    with pytest.raises(ConfigError):
        DistillerOptions(learning_rate=0.0)
    with pytest.raises(ConfigError, match="nothing would be learnt"):
        DistillerOptions(capacity=32)
