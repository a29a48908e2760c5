"""How long ways to distil take to keep a target: ours, `imitation`, PPD's baselines.

All are given the same planner and an executor of the same widths, and measured in the same
environment on the same seeds. The clock counts training and stands still while a snapshot is
measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from agentkd import environments
from agentkd.bench import imitation_run
from agentkd.distillation.loop import distill
from agentkd.distillation.prune import dense_layers
from agentkd.distillation.sb3.from_sb3 import from_sb3
from agentkd.errors import ConfigError, LoadError, WorkerError
from agentkd.executors.architecture import Mlp, initial, parse
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate
from agentkd.planners import Planner, load_planner
from agentkd.spec import BoxSpec, DiscreteSpec, Spec
from agentkd.types import Policy

OLDER: Mapping[str, str] = {
    "LunarLander-v3": "LunarLander-v2",
    "HalfCheetah-v5": "HalfCheetah-v4",
    "Swimmer-v5": "Swimmer-v4",
    "Hopper-v5": "Hopper-v4",
    "Walker2d-v5": "Walker2d-v4",
}
"""What gymnasium 0.29 calls the environment, where its name differs."""
_LADDER = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
_EVERY = 3.0
"""Seconds of training between two snapshots of PPD's methods."""
_ENVS = 18


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An executor on the way.

    Attributes:
        seconds: Of training until then.
        labels: Labels, or environment steps, until then.
        kept: What it kept.
    """

    seconds: float
    labels: int
    kept: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a method went.

    Attributes:
        method: Its name.
        snapshots: In the order in which they were taken.
        target: The retention to keep.
        fault: Why it could not go on, "" if nothing was wrong.
    """

    method: str
    snapshots: tuple[Snapshot, ...]
    target: float
    fault: str = ""

    @property
    def reached(self) -> Snapshot | None:
        """The first that kept the target; None where none did."""
        return next((s for s in self.snapshots if s.kept >= self.target), None)


@final
@dataclass(slots=True)
class Contest:
    """What all methods share.

    Attributes:
        env: The environment.
        spec: Its.
        planner: What is distilled.
        ref: A reference to it.
        executor: The architecture; the others use the same widths.
        target: The retention at which a method is done.
        seconds: The most training that one gets.
        planner_return: The planner's mean return on the seeds.
        random_return: That of random actions.
        episodes: How many a snapshot is measured over.
        eval_seed: The first one's seed.
        seed: Of every method.
        watch: Told of each snapshot.
    """

    env: str
    spec: Spec
    planner: Planner
    ref: str
    executor: str
    target: float
    seconds: float
    planner_return: float
    random_return: float
    episodes: int
    eval_seed: int
    seed: int
    watch: Callable[[str, Snapshot], None]
    _snapshots: list[Snapshot] = field(default_factory=list)

    def run(self, method: str, python: str | None) -> Outcome:
        """Let a method train until it keeps the target or its time is over.

        Raises:
            ConfigError: If there is no such method.
        """
        self._snapshots = []
        fault = ""
        # The first optimiser of a process imports more of torch than torch did itself.
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        try:
            match method:
                case "agentkd":
                    self._ours()
                case "imitation DAgger" | "imitation BC":
                    self._theirs("dagger" if "DAgger" in method else "bc", python)
                case "student-driven" | "teacher-driven" | "ppd":
                    self._guided(method)
                case _:
                    raise ConfigError(f"No method {method!r}.")
        except (LoadError, WorkerError) as error:
            fault = str(error)
        return Outcome(method, tuple(self._snapshots), self.target, fault)

    def _note(self, method: str, policy: Policy, seconds: float, labels: int) -> bool:
        """Measure a snapshot; False if it is enough."""
        got = evaluate(
            self.env, policy, episodes=self.episodes, seed=self.eval_seed, spec=self.spec
        )
        span = self.planner_return - self.random_return
        kept = (float(np.mean(got.returns)) - self.random_return) / span
        snapshot = Snapshot(seconds, labels, kept)
        self._snapshots.append(snapshot)
        self.watch(method, snapshot)
        return kept < self.target

    def _ours(self) -> None:
        """Whole distillations, each longer than the one before.

        A distillation's learning rate falls to its end, so that half of one is not what one of half
        the time would be: each begins anew, and has its own time alone.
        """
        for seconds in (each for each in _LADDER if each <= self.seconds):
            began = time.monotonic()
            result = distill(
                self.env, self.ref, self.executor, seconds=seconds, episodes=0, seed=self.seed
            )
            if result.interrupted and not result.fault:
                raise KeyboardInterrupt
            # Its start counts: another way to distil has none.
            passed = time.monotonic() - began
            if not self._note("agentkd", result.executor, passed, result.labels):
                return

    def _theirs(self, method: str, python: str | None) -> None:
        if python is None:
            raise LoadError("no --python was given that has imitation 1.0.1")
        with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
            folder = Path(name)
            base, arguments = environments.split(self.env)
            export(from_sb3(self.planner, self.spec), folder / "planner.npz")
            order = {
                "env": OLDER.get(base, base),
                "env_args": arguments,
                "planner": str(folder / "planner.npz"),
                "method": method,
                "hidden": list(_widths(self.executor)),
                "seconds": self.seconds,
                "folder": name,
                "seed": self.seed,
            }
            self._follow(f"imitation {method}", python, order, folder)

    def _follow(self, method: str, python: str, order: Mapping[str, Any], folder: Path) -> None:
        errors = folder / "errors.txt"
        # From a folder of its own, whose modules hide none of the other Python's.
        script = Path(shutil.copy(imitation_run.__file__, folder / "run"))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with (
            errors.open("w") as said,
            subprocess.Popen(
                [python, str(script)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                errors="replace",
            ) as child,
        ):
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(json.dumps(order) + "\n")
                child.stdin.flush()
                for line in child.stdout:
                    if not line.startswith("{"):
                        continue
                    at = json.loads(line)
                    executor = self._imported(Path(at["path"]))
                    more = self._note(method, executor, at["seconds"], at["labels"])
                    child.stdin.write("go\n" if more else "stop\n")
                    child.stdin.flush()
            except BrokenPipeError:
                pass
            finally:
                child.terminate()
        if not self._snapshots:
            words = errors.read_text().strip().splitlines()[-1:] or ["nothing was said"]
            raise WorkerError(f"{python} gave no snapshot: {words[0]}")

    def _imported(self, path: Path) -> Executor:
        """Make an executor of what the other Python wrote."""
        widths = ",".join(map(str, _widths(self.executor)))
        sketch = initial(f"mlp:{widths},tanh", self.spec, squashed=False)
        with np.load(path, allow_pickle=False) as data:
            layers = sum(name.startswith("weight") for name in data.files)
            pieces = [data["mean"], data["scale"]]
            for index in range(layers):
                pieces += [data[f"weight{index}"].ravel(), data[f"bias{index}"]]
        vector = np.concatenate(pieces).astype(np.float32)
        from dataclasses import replace

        return replace(sketch.with_vector(vector, 0), clip=1e6)

    def _guided(self, method: Any) -> None:
        """PPD's baselines as its authors ran them, and PPD, in this process."""
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        from agentkd.distillation.sb3.guide import Guide
        from agentkd.distillation.sb3.guided_ppo import GuidedPPO

        contest = self

        class Clock(BaseCallback):
            """Counts the time that training takes."""

            passed = 0.0
            last = 0.0
            since = time.monotonic()
            more = True

            def _on_rollout_start(self) -> None:
                # Here an update has just been made, but for the first time.
                now = self.passed + time.monotonic() - self.since
                if not self.num_timesteps or now - self.last < _EVERY:
                    return
                self.last = self.passed = now
                executor = from_sb3(self.model)
                self.more = contest._note(method, executor, now, self.num_timesteps)
                self.since = time.monotonic()

            def _on_step(self) -> bool:
                return self.more and self.last < contest.seconds

        clock = Clock()
        clock.since = time.monotonic()
        driven = method != "ppd"
        envs = DummyVecEnv([lambda: Monitor(environments.make(self.env, finite=True))] * _ENVS)
        envs.seed(self.seed)
        model = GuidedPPO(
            "MlpPolicy",
            VecNormalize(envs),
            planner=self.planner,
            guide=Guide(method),
            n_steps=5 if driven else 64,
            batch_size=5 * _ENVS if driven else 576,
            n_epochs=1 if driven else 4,
            learning_rate=3e-4,
            gamma=0.999,
            policy_kwargs={"net_arch": list(_widths(self.executor))},
            seed=self.seed,
            device="cpu",
        )
        try:
            model.learn(10**9, callback=clock)
        finally:
            envs.close()


def _widths(executor: str) -> tuple[int, ...]:
    shape = parse(executor)
    if not isinstance(shape, Mlp) or not shape.hidden:
        raise ConfigError(f"{executor!r}: the others' executors are mlp:… with layers.")
    return shape.hidden


def export(executor: Executor, path: Path) -> None:
    """Write a planner as layers that torch alone can rebuild.

    Raises:
        LoadError: If its actions are several choices.
    """
    if not isinstance(executor.spec.action, (BoxSpec, DiscreteSpec)):
        raise LoadError("imitation is only given planners of one choice or a box")
    shape, layers = dense_layers(executor)
    numbers: dict[str, Any] = {}
    for index, (weight, bias) in enumerate(layers):
        numbers[f"weight{index}"], numbers[f"bias{index}"] = weight, bias
    between = [shape.activation] * (len(layers) - 1)
    np.savez(
        path,
        mean=executor.mean,
        scale=executor.scale,
        clip=np.float64(executor.clip),
        head=np.array(executor.head),
        activations=np.array([*between, "none"]),
        **numbers,
    )


def look(ref: str, spec: Spec) -> Planner:
    """Load the planner; it has to be one that others can be given."""
    planner = load_planner(ref, spec)
    from_sb3(planner, spec)
    return planner
