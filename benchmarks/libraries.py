"""Time to a target, against `imitation`'s DAgger and BC and PPD's methods.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np
import torch
import tyro

from agentkd import environments
from agentkd.distillation.prune import dense_layers
from agentkd.distillation.run import Budget
from agentkd.distillation.sb3.from_sb3 import from_sb3
from agentkd.errors import ConfigError, LoadError, WorkerError
from agentkd.executors.architecture import initial, parse
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.planners import Planner, load_planner
from agentkd.report.model import Plot, Section, Series
from agentkd.spec import BoxSpec, DiscreteSpec, Spec
from agentkd.types import Policy, RecurrentPolicy
from benchmarks import imitation_script
from benchmarks.planners import Case, distilled
from benchmarks.pythons import Elsewhere
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

Method = Literal[
    "agentkd", "imitation DAgger", "imitation BC", "student-driven", "teacher-driven", "ppd"
]
_OLDER: Mapping[str, str] = {
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


@dataclass(frozen=True, kw_only=True)
class Options(Place, Elsewhere):
    """Time how long ways to distil take until they keep a target.

    `imitation` needs gymnasium 0.29 and SB3 2.2, so it has a Python of its own, which `python -m
    benchmarks pythons imitation` builds.

    Example: python -m benchmarks libraries CartPole-v1 --planner DIR
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    planner: str
    """An SB3 save or its folder: a multilayer perceptron, which others can be given."""
    methods: tuple[Method, ...] = get_args(Method)
    """Which to time; those of imitation are left out where its Python was not built."""
    executor: str = "mlp:64,64"
    """Our executor's architecture; the others' policies have the same widths."""
    target: float = 0.95
    """The retention at which a method is done."""
    seconds: float = 120.0
    """The most training that a method gets."""
    seed: int = 0
    """Of every method."""
    episodes: int = 20
    """Episodes to measure a snapshot over, on the same seeds."""
    eval_seed: int = 1000
    """The first of these seeds."""

    def mean_return(self, policy: Policy | RecurrentPolicy | None) -> float:
        """Measure a policy on the seeds; None acts by chance."""
        how: dict[str, Any] = {"episodes": self.episodes, "seed": self.eval_seed}
        if policy is None:
            return float(np.mean(evaluate_random(self.env, **how).returns))
        return float(np.mean(evaluate(self.env, policy, **how).returns))


@final
@dataclass(slots=True)
class Contest:
    """What all methods share.

    Attributes:
        options: The environment, the executor's architecture, the limits.
        spec: The environment's.
        planner: What is distilled.
        planner_return: The planner's mean return on the seeds.
        random_return: That of random actions.
    """

    options: Options
    spec: Spec
    planner: Planner
    planner_return: float
    random_return: float
    _snapshots: list[dict[str, Any]] = field(default_factory=list)

    def run(self, method: Method) -> dict[str, Any]:
        """Let a method train until it keeps the target or its time is over.

        Returns:
            Its snapshots in order: seconds of training, labels or environment steps,
            and what was kept; the first that kept the target or None; why it could not go on, "" if
            nothing was wrong.
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
                    self._theirs("dagger" if "DAgger" in method else "bc")
                case _:
                    self._guided(method)
        except (LoadError, WorkerError) as error:
            fault = str(error)
        found, target = self._snapshots, self.options.target
        reached = next((each for each in found if each["kept"] >= target), None)
        return {"snapshots": found, "reached": reached, "fault": fault}

    def _note(self, policy: Policy, seconds: float, labels: int) -> bool:
        """Measure a snapshot; False if it is enough."""
        span = self.planner_return - self.random_return
        kept = (self.options.mean_return(policy) - self.random_return) / span
        snapshot = {"seconds": seconds, "labels": labels, "kept": kept}
        self._snapshots.append(snapshot)
        return kept < self.options.target

    def _ours(self) -> None:
        """Whole distillations, each longer than the one before.

        A distillation's learning rate falls to its end, so that half of one is not what one of half
        the time would be: each begins anew, and has its own time alone.
        """
        for seconds in (each for each in _LADDER if each <= self.options.seconds):
            began = time.monotonic()
            case = Case("", self.options.env, self.options.planner)
            result = distilled(
                case, self.options.executor, Budget(seconds=seconds), seed=self.options.seed
            )
            # Its start counts: another way to distil has none.
            passed = time.monotonic() - began
            if not self._note(result.executor, passed, result.labels):
                return

    def _theirs(self, method: str) -> None:
        options, python = self.options, self.options.find("imitation")
        if python is None:
            raise LoadError(f"imitation is not here. {options.remedy('imitation')}")
        with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
            folder = Path(name)
            base, arguments = environments.split(options.env)
            export(from_sb3(self.planner, self.spec), folder / "planner.npz")
            order = {
                "env": _OLDER.get(base, base),
                "env_args": arguments,
                "planner": str(folder / "planner.npz"),
                "method": method,
                "hidden": list(_widths(options.executor)),
                "seconds": options.seconds,
                "folder": name,
                "seed": options.seed,
            }
            self._follow(str(python), order, folder)

    def _follow(self, python: str, order: Mapping[str, Any], folder: Path) -> None:
        errors = folder / "errors.txt"
        # From a folder of its own, whose modules hide none of the other Python's.
        script = Path(shutil.copy(imitation_script.__file__, folder / "run"))
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
                    more = self._note(executor, at["seconds"], at["labels"])
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
        widths = ",".join(map(str, _widths(self.options.executor)))
        sketch = initial(f"mlp:{widths},tanh", self.spec, squashed=False)
        with np.load(path, allow_pickle=False) as data:
            layers = sum(name.startswith("weight") for name in data.files)
            pieces = [data["mean"], data["scale"]]
            for index in range(layers):
                pieces += [data[f"weight{index}"].ravel(), data[f"bias{index}"]]
        vector = np.concatenate(pieces).astype(np.float32)
        return replace(sketch.with_vector(vector, 0), clip=1e6)

    def _guided(self, method: Any) -> None:
        """PPD's baselines as its authors ran them, and PPD, in this process."""
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        from agentkd.distillation.sb3.guided_ppo import GuidedPPO
        from benchmarks.driven import DrivenPPO

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
                self.more = contest._note(executor, now, self.num_timesteps)
                self.since = time.monotonic()

            def _on_step(self) -> bool:
                return self.more and self.last < contest.options.seconds

        clock = Clock()
        clock.since = time.monotonic()
        envs = DummyVecEnv(
            [lambda: Monitor(environments.make(self.options.env, finite=True))] * _ENVS
        )
        envs.seed(self.options.seed)
        how: dict[str, Any] = {
            "planner": self.planner,
            "learning_rate": 3e-4,
            "gamma": 0.999,
            "policy_kwargs": {"net_arch": list(_widths(self.options.executor))},
            "seed": self.options.seed,
            "device": "cpu",
        }
        model: Any
        if method == "ppd":
            model = GuidedPPO(
                "MlpPolicy", VecNormalize(envs), n_steps=64, batch_size=576, n_epochs=4, **how
            )
        else:
            by_planner = method == "teacher-driven"
            # All of a rollout is one batch.
            how |= {"n_steps": 5, "batch_size": 5 * _ENVS}
            model = DrivenPPO("MlpPolicy", VecNormalize(envs), by_planner=by_planner, **how)
        try:
            model.learn(10**9, callback=clock)
        finally:
            envs.close()


def _widths(executor: str) -> tuple[int, ...]:
    shape = parse(executor)
    if shape.kind != "mlp" or not shape.hidden:
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


def works(options: Options) -> Iterator[Work]:
    """List the methods."""
    if not options.seconds > 0 or options.episodes < 1:
        raise ConfigError(
            f"--seconds {options.seconds:g} --episodes {options.episodes}: above 0, at least 1."
        )
    if set(options.methods) != {"agentkd"}:
        _widths(options.executor)
    spec, _ = environments.look_at(options.env)
    planner = load_planner(options.planner, spec)
    # It has to be one that others can be given.
    from_sb3(planner, spec)

    @cache
    def contest() -> Contest:
        best, floor = map(options.mean_return, (planner.policy, None))
        return Contest(options, spec, planner, best, floor)

    def run(method: Method) -> dict[str, Any]:
        return contest().run(method)

    for method in _there(options):
        yield Work(method, {"method": method}, partial(run, method))


def _there(options: Options) -> tuple[Method, ...]:
    """Return the methods that can be timed here.

    Raises:
        ConfigError: If those of imitation are named, and its Python was not built.
    """
    if options.find("imitation") is not None:
        return options.methods
    if options.methods != get_args(Method) and any("imitation" in e for e in options.methods):
        raise ConfigError(f"--methods {', '.join(options.methods)}: {options.remedy('imitation')}")
    return tuple(each for each in options.methods if "imitation" not in each)


def _last(result: Result) -> float:
    """Return for how long a method trained, in seconds."""
    return float(result["snapshots"][-1]["seconds"]) if result["snapshots"] else 0.0


def _seconds(result: Result) -> str:
    at = result["reached"]
    reached = f"{at['seconds']:.1f}" if at else f"not in {_last(result):.0f}"
    return result["fault"] or reached


def _slower(mine: float | None, result: Result) -> str:
    """Say how many times our time a method took, or took at least."""
    if mine is None or not result["snapshots"]:
        return ""
    at = result["reached"]
    ratio = (at["seconds"] if at else _last(result)) / mine
    return f"{ratio:.1f}x" if at else f"> {ratio:.1f}x"


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show when each method kept the target."""
    ours = [r["reached"] for r in results if r["method"] == "agentkd" and r["reached"]]
    mine = ours[0]["seconds"] if ours else None
    columns = [
        Column("method", "method"),
        Column("seconds to target", _seconds),
        Column("labels", lambda r: (r["reached"] or {}).get("labels"), ","),
        Column(
            "best kept", lambda r: max((s["kept"] for s in r["snapshots"]), default=None), ".3f"
        ),
        Column("slower than ours", partial(_slower, mine)),
    ]
    plot = Plot(
        "Retention while it learns",
        "seconds of training",
        "retention",
        tuple(
            Series(
                r["method"],
                [s["seconds"] for s in r["snapshots"]],
                [s["kept"] for s in r["snapshots"]],
            )
            for r in results
        ),
        "Ours are whole distillations of that time.",
    )
    older = _OLDER.get(environments.split(options.env)[0])
    text = (
        f"Until {options.target:g} is kept, or {options.seconds:g} s. Executors of "
        f"{options.executor}, one core each but ours, which uses two."
    )
    if older:
        text += f" imitation trains in {older}, for it needs gymnasium 0.29."
    if len(_there(options)) < len(options.methods):
        text += f" imitation's methods are left out. {options.remedy('imitation')}"
    section = Section("Time to a target", text, table(columns, results), (plot,))
    return Findings([section])


BENCHMARK = Benchmark("libraries", works, findings, _seconds, ("methods", "pythons"))
run = BENCHMARK.run
