"""The native engine learns what torch's does, and stands in where it fits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentkd.distillation import native_engine
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.engine import Beside, EngineName
from agentkd.distillation.matching import Matching
from agentkd.distillation.native_engine import NativeEngine
from agentkd.distillation.terms.answers import Match
from agentkd.distillation.terms.term import Ground
from agentkd.distillation.torch_engine import TorchEngine
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.network import Network
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    QValues,
    SquashedGaussian,
)

pytestmark = pytest.mark.needs("cc")

OBS = ObsSpec((Part("", "box", (7,), "float32"),))
BOX = BoxSpec((-1.0, -2.0, 0.0, -1.0, -1.0), (1.0, 2.0, 0.5, 1.0, 3.0), (5,))
OPEN = BoxSpec((-np.inf,) * 5, (np.inf,) * 5, (5,))
RULE = np.random.default_rng(5).standard_normal((7, 5)).astype(np.float32)

CASES: list[tuple[str, ActionSpec, type[Any], str, bool]] = [
    ("mlp:32,32", DiscreteSpec(5), Categorical, "match", True),
    ("mlp:20,silu", DiscreteSpec(5), QValues, "match", True),
    ("mlp:20,tanh", DiscreteSpec(5), QValues, "soft:tau=2,unit=absolute,sides=both", True),
    ("mlp:20,elu", DiscreteSpec(5), Categorical, "soft:tau=auto + 0.3 hard:smoothing=0.1", True),
    ("mlp:20,20", MultiDiscreteSpec((2, 3)), MultiCategorical, "match + hard", True),
    ("mlp:20,20,tanh", MultiBinarySpec(5), Bernoulli, "match", True),
    ("mlp:64,64,silu", BOX, SquashedGaussian, "match", True),
    ("mlp:20,tanh", BOX, SquashedGaussian, "2 action", True),
    ("mlp:20,silu", BOX, Gaussian, "action", True),
    ("mlp:20,tanh", BOX, Gaussian, "match", False),
    ("mlp:20,silu", OPEN, Gaussian, "match", False),
    ("linear", BOX, Point, "match", True),
    ("mlp:256,silu", BOX, Point, "match", True),
]


def labels(kind: type[Any], seed: int = 0, count: int = 1500) -> tuple[Floats, ActionDist]:
    """Draw observations, and answer them by a linear rule."""
    random = np.random.default_rng(seed)
    obs = (3 * random.standard_normal((count, 7)) + 1).astype(np.float32)
    said = (0.4 * obs @ RULE).astype(np.float32)
    if kind is MultiCategorical:
        return obs, MultiCategorical(said, (2, 3))
    if kind in (Gaussian, SquashedGaussian):
        return obs, kind(said, np.full_like(said, -1.0))
    return obs, kind(said)


def distiller(engine: EngineName, case: tuple[Any, ...]) -> Distiller:
    """Make a distiller with labels."""
    architecture, action, kind, terms, squashed = case
    executor = initial(architecture, Spec(OBS, action), seed=1, squashed=squashed)
    made = Distiller(executor, DistillerOptions(batch=100, terms=terms, engine=engine))
    made.add(*labels(kind))
    return made


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[2].__name__} {case[3]}")
def test_both_engines_learn_the_same(case: tuple[Any, ...]) -> None:
    """Gradients agree within 1e-5, and weights after 1,000 steps within 1e-3."""
    native, other = distiller("native", case), distiller("torch", case)
    assert isinstance(native.engine, NativeEngine)
    assert isinstance(other.engine, TorchEngine)
    for step in range(1000):
        for each in (native, other):
            each.schedule(step / 1000)
        mine, theirs = native.step(), other.step()
        if step == 0:
            of_torch = [each.grad for each in other.engine.network.parameters()]
            assert all(each is not None for each in of_torch)
            flat = np.concatenate([np.asarray(each).ravel() for each in of_torch])
            clipped = native.engine._gradient.copy()
            clipped *= min(1.0, 1.0 / (float(np.linalg.norm(clipped)) + 1e-6))
            np.testing.assert_allclose(clipped, flat, atol=1e-5)
            assert mine == pytest.approx(theirs, rel=1e-4)
    np.testing.assert_allclose(native.snapshot(), other.snapshot(), atol=1e-3)
    assert native.rejected == other.rejected == 0


def test_the_engine_is_chosen_by_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense layers and usual terms are native; anything else is torch's."""
    spec = Spec(OBS, DiscreteSpec(3))

    def chosen(architecture: str = "mlp:8", terms: str = "match") -> str:
        return Distiller(initial(architecture, spec), DistillerOptions(terms=terms)).engine.name

    assert chosen() == chosen(terms="soft:tau=3 + hard") == "native"
    assert chosen("gru:8") == chosen(terms="match + 0.1 robust") == "torch"
    for architecture, terms, reason in (
        ("gru:8", "match", "other layers than dense"),
        ("mlp:8", "match + 0.1 adversarial", "'adversarial' is none of match, soft"),
    ):
        options = DistillerOptions(terms=terms, engine="native")
        with pytest.raises(ConfigError, match=reason):
            Distiller(initial(architecture, spec), options)
    with pytest.raises(ConfigError, match="Did you mean 'torch'"):
        DistillerOptions(engine="troch")  # type: ignore[arg-type]
    monkeypatch.setattr(native_engine, "_library", lambda: None)
    assert chosen() == "torch"


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("terms", ["match", "soft:unit=gap"])
def test_what_is_undone_takes_the_temperature_along(engine: EngineName, terms: str) -> None:
    """Labels without sense move weights and temperature, and both go back."""
    made = distiller(engine, ("mlp:8", DiscreteSpec(5), QValues, terms, True))
    for _ in range(64):
        numbers = made.step()
    (key,) = (name for name in numbers if name.endswith("tau"))
    wild = np.full((20_000, 5), 3e38, np.float32) * np.array([1, -1, 1, -1, 1], np.float32)
    made.add(np.zeros((20_000, 7), np.float32), QValues(wild))
    made.step()
    assert made.rejected == 1
    made.buffer = LabelBuffer()
    made.add(*labels(QValues))
    assert made.step()[key] == pytest.approx(numbers[key], rel=0.05)


def test_the_gate_compares_as_the_terms_do() -> None:
    """Large scores that differ little keep their differences."""
    said = (1e4 + np.random.default_rng(0).random((200, 5)) / 100).astype(np.float32)
    mine = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
    executor = initial("mlp:8", Spec(OBS, DiscreteSpec(5)))
    own = Matching("qvalues", executor.head, executor.spec.action)
    own.observe(said)
    term = Match().build(Ground.of(executor, "qvalues", Network(executor)))
    term.observe(torch.from_numpy(said))
    theirs = term.rows(torch.from_numpy(mine), torch.from_numpy(said))
    np.testing.assert_allclose(own.rows(mine, said), theirs.numpy(), rtol=1e-3, atol=1e-4)


def test_wide_layers_are_left_to_torch() -> None:
    """There torch is as fast or faster; asked for by name, the native engine takes them."""
    executor = initial("mlp:512", Spec(OBS, DiscreteSpec(3)))
    assert Distiller(executor).engine.name == "torch"
    assert Distiller(executor, DistillerOptions(engine="native")).engine.name == "native"


@pytest.mark.parametrize("terms", ["match", "soft:unit=gap + hard"])
@pytest.mark.parametrize(("first", "then"), [("native", "torch"), ("torch", "native")])
def test_a_checkpoint_goes_from_one_engine_to_the_other(
    first: EngineName, then: EngineName, terms: str, tmp_path: Path
) -> None:
    """Weights, both of Adam's averages and the temperature come along: the next steps agree."""
    case = ("mlp:20,silu", DiscreteSpec(5), QValues, terms, True)
    before = distiller(first, case)
    for _ in range(50):
        before.step()
    save_checkpoint(tmp_path, before, Checkpoint())
    resumed = []
    for engine in (first, then):
        options = DistillerOptions(batch=100, terms=terms, engine=engine)
        other = Distiller(initial("mlp:20,silu", Spec(OBS, case[1])), options)
        load_checkpoint(tmp_path, other)
        np.testing.assert_allclose(other.snapshot(), before.snapshot(), rtol=1e-6, atol=1e-7)
        for _ in range(20):
            numbers = other.step()
        resumed.append((other.snapshot(), numbers))
    np.testing.assert_allclose(resumed[0][0], resumed[1][0], atol=1e-4)
    assert resumed[0][1] == pytest.approx(resumed[1][1], rel=1e-3)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_labels_of_other_sizes_are_refused(engine: EngineName) -> None:
    """Native code trusts sizes, so they are compared as labels come."""
    options = DistillerOptions(engine=engine)
    box = Distiller(initial("mlp:8", Spec(OBS, BOX)), options)
    choice = Distiller(initial("mlp:8", Spec(OBS, DiscreteSpec(3))), options)
    seven, three = np.zeros((80, 7), np.float32), np.zeros((80, 3), np.float32)
    with pytest.raises(SpecError, match=r"7 numbers observed and 3 answered; .* takes 7 and 5"):
        box.add(seven, Point(three))
    with pytest.raises(SpecError, match=r"3 numbers observed and 3 answered; .* takes 7 and 3"):
        choice.add(three, Categorical(three))
    with pytest.raises(SpecError, match="a categorical distribution"):
        box.add(seven, Categorical(three))
    beside = LabelBuffer(100)
    beside.add(three, Categorical(three))
    with pytest.raises(SpecError, match="3 numbers observed"):
        Distiller(
            initial("mlp:8", Spec(OBS, DiscreteSpec(3))),
            options,
            beside=Beside(beside, np.random.default_rng(0), lambda: (8, 1.0)),
        )


LIVE = """
import sys, time
sys.modules["torch"] = None
import numpy as np
from agentkd import Agent, env_spec, initial
from agentkd.distillation.service import build
from agentkd.runtime import InlineDistiller, InlinePlanner
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.spec_json import to_json
from agentkd.types import Categorical

spec = Spec(ObsSpec((Part("", "box", (8,), "float32"),)), DiscreteSpec(4))
rule = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
learning = build("mlp:64,64", to_json(spec))
planner = InlinePlanner(lambda obs: Categorical(obs @ rule), latency_ticks=1)
distiller = InlineDistiller(learning, steps_per_tick=2, swap_every=25)
random = np.random.default_rng(1)
with Agent(initial("mlp:64,64", spec), planner=planner, distiller=distiller) as agent:
    for _ in range(1500):
        agent.act(random.standard_normal(8).astype(np.float32))
    swaps = agent.metrics()["swaps_total"]
assert swaps > 0, agent.metrics()
fresh = random.standard_normal((500, 8)).astype(np.float32)
same = (learning.distiller.freeze()(fresh).logits.argmax(1) == (fresh @ rule).argmax(1)).mean()
assert same > 0.85, same
took = []
for _ in range(300):
    began = time.thread_time()
    learning.step()
    took.append(time.thread_time() - began)
memory = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(int(memory.split()[1]) / 1024, 1000 * min(took))
"""


def test_live_learning_needs_no_torch() -> None:
    """On the base install it takes at most 80 MB, and 1 ms of a processor a step."""
    done = subprocess.run([sys.executable, "-c", LIVE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    megabytes, milliseconds = map(float, done.stdout.split())
    assert megabytes <= 80
    # The least of many, in processor time: other programs do not count.
    assert milliseconds <= 1
