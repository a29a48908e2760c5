"""A wrapper that checks what an environment returns, and names it in each error."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agentkd.errors import AgentkdError, EpisodeError, SpecError
from agentkd.printable import logger
from agentkd.spec import env_spec
from agentkd.types import Floats

log = logger(__name__)

_OLD_API = (
    "This is the API of gym before 0.26. Wrap the environment with "
    "shimmy.GymV21CompatibilityV0, or return what gymnasium.Env.{method} does: {what}."
)
_NEEDS = ("reset", "step", "observation_space", "action_space")


class Actor(Protocol):
    """A compiled executor: `run` decides for `obs`, (size,), and gives 0; `take` is the action."""

    obs: Floats
    run: Callable[[], int]

    def take(self) -> Any:
        """Give the action that `run` decided."""


@final
class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """Checks each result of an environment; its errors say which, where and what to do.

    Observations must fit `observation_space` in structure, shape and kind of number; rewards must
    be single finite numbers. NaN in an observation is let through, for the runtime and the
    collector handle it, unless `finite` is set.

    Raises:
        EpisodeError: If `env` lacks the methods or spaces of a `gymnasium.Env`; later, from
            `reset` and `step`, if it raises or returns something wrong.
        SpecError: If its spaces are not supported.
    """

    def __init__(self, env: Any, name: str, *, finite: bool = False) -> None:
        missing = [each for each in _NEEDS if getattr(env, each, None) is None]
        if missing:
            raise EpisodeError(
                f"{name} made an object of type {type(env).__name__} without "
                f"{', '.join(missing)}. Name a class or function that makes a "
                "gymnasium.Env."
            )
        super().__init__(env if isinstance(env, gym.Env) else _Borrowed(env))
        try:
            env_spec(env)
        except SpecError as error:
            raise SpecError(f"{name}: {error}") from error
        self._name, self._finite = name, finite
        self._seed: int | None = None
        self._steps = 0
        space = env.observation_space
        plain = type(space).__name__ == "Box"
        self._shape = tuple(space.shape) if plain else None
        self._dtype = np.dtype(space.dtype) if plain else None
        # One row of numbers, which needs no call to be checked and laid out.
        self._flat = plain and len(space.shape) == 1 and not finite

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The environment's own: one made of it again is checked anew."""
        return self.env.spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            EpisodeError: If the environment raises or returns something wrong.
        """
        self._seed, self._steps = seed, 0
        more = {} if options is None else {"options": options}
        try:
            result: Any = self.env.reset(seed=seed, **more)
        except AgentkdError:
            raise
        except SystemExit as error:
            self._tell_exit("reset", error)
            raise
        except Exception as error:
            raise self._raised("reset", error) from error
        good = isinstance(result, tuple) and len(result) == 2
        if not good or not isinstance(result[1], Mapping):
            what = "the pair (observation, info), where info is a dictionary"
            hint = _OLD_API.format(method="reset", what=what)
            raise self._fault(f"reset returned {_described(result)}", hint)
        obs, info = result
        self._check_observation(obs, "reset")
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do a step.

        Raises:
            EpisodeError: If the environment raises or returns something wrong.
        """
        try:
            result: Any = self.env.step(action)
        except AgentkdError:
            raise
        except SystemExit as error:
            self._tell_exit("step", error)
            raise
        except Exception as error:
            raise self._raised("step", error, action) from error
        found = self._judged(result)
        self._steps += 1
        return found

    def drive(
        self, actor: Actor, visited: Floats, reward: Floats, flat: Callable[[Any], Floats]
    ) -> tuple[int, tuple[Any, bool, bool] | None]:
        """Step with an actor's actions until an episode ends, or the arrays are full.

        It is `step` after `step`, with as little as can be done around each.

        Args:
            actor: Decides for the observation that it is shown.
            visited: Flat observations, (ticks + 1, size): the first is where the environment
                stands, the others are written.
            reward: Is written, (ticks,).
            flat: Lays an observation out flat, (size,).

        Returns:
            How many steps were done, fewer than `ticks` where the actor has no action; and the last
            observation, terminated and truncated, if an episode ended.
        """
        seen, decide, take, step = actor.obs, actor.run, actor.take, self.env.step
        shape, dtype, plain = self._shape, self._dtype, self._flat
        first, at, ticks = self._steps, 0, len(reward)
        seen[:] = visited[0]
        while at < ticks and not decide():
            action = take()
            try:
                result: Any = step(action)
            except AgentkdError:
                raise
            except SystemExit as error:
                self._tell_exit("step", error)
                raise
            except Exception as error:
                self._steps = first + at
                raise self._raised("step", error, action) from error
            if type(result) is tuple and len(result) == 5:
                obs, paid, terminated, truncated, info = result
                usual = (
                    plain
                    and type(obs) is np.ndarray
                    and obs.dtype is dtype
                    and obs.shape == shape
                    and isinstance(paid, float)
                    and math.isfinite(paid)
                    and type(terminated) is bool
                    and type(truncated) is bool
                    and type(info) is dict
                )
            else:
                usual = False
            if not usual:
                self._steps = first + at
                obs, paid, terminated, truncated, _ = self._judged(result)
                obs = obs if terminated or truncated else flat(obs)
            reward[at] = paid
            at += 1
            if terminated or truncated:
                self._steps = first + at
                return at, (obs, terminated, truncated)
            seen[:] = obs
            visited[at] = seen
        self._steps = first + at
        return at, None

    def _judged(self, result: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Check what a step returned."""
        if not isinstance(result, tuple) or len(result) != 5:
            what = "(observation, reward, terminated, truncated, info)"
            hint = _OLD_API.format(method="step", what=what)
            raise self._fault(f"step returned {_described(result)}", hint)
        obs, reward, terminated, truncated, info = result
        self._check_observation(obs, "step")
        # A float of NumPy is one of Python's too.
        reward = float(reward) if isinstance(reward, float) else self._reward(reward)
        if not math.isfinite(reward):
            raise self._fault(f"The reward is {reward}", "Return a finite number.")
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        if type(info) is not dict and not isinstance(info, Mapping):
            raise self._fault(f"step returned {_described(info)} as info", "Return a dictionary.")
        return obs, reward, terminated, truncated, info  # type: ignore[return-value]

    def close(self) -> None:
        """Close the environment; an error of its own is logged and not raised.

        Games end the program there (SystemExit); ours goes on.
        """
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            log.warning(
                "%s: close raised %s. Nothing that was measured is lost.", self._name, told(error)
            )

    def _tell_exit(self, method: str, error: SystemExit) -> None:
        """Say who ends the program: an exit has no words of its own."""
        log.error("%s: %s ends the program: %s.", self._name, method, told(error))

    def _check_observation(self, obs: Any, method: str) -> None:
        array = type(obs) is np.ndarray
        if not array or obs.dtype != self._dtype or obs.shape != self._shape:
            wrong = misfit(self.env.observation_space, obs)
            if wrong:
                raise self._fault(
                    f"{method} returned an observation that does not fit "
                    f"observation_space: {wrong}",
                    "Correct the space or the observation.",
                )
        if self._finite and not _is_finite(obs):
            raise self._fault(
                f"{method} returned an observation with NaN or infinity",
                "Check the simulation, or end the episode before it diverges.",
            )

    def _reward(self, reward: Any) -> float:
        """Give the reward as a number."""
        number = isinstance(reward, (int, float, np.number, np.bool_, np.ndarray))
        if not number or np.shape(reward) != () or np.asarray(reward).dtype.kind == "c":
            raise self._fault(
                f"step returned {_described(reward)} as reward",
                "Return a single number, for example float(reward).",
            )
        try:
            return float(reward)
        except OverflowError:
            return math.inf

    def _flag(self, name: str, value: Any) -> bool:
        number = isinstance(value, (bool, int, float, np.generic, np.ndarray))
        if not number or np.shape(value) != () or value not in (0, 1):
            raise self._fault(
                f"step returned {_described(value)} as {name}", "Return True or False."
            )
        return bool(value)

    def _raised(self, method: str, error: Exception, action: Any = None) -> EpisodeError:
        hint = "AGENTKD_DEBUG=1 shows the traceback."
        if isinstance(error, TypeError) and "'seed'" in str(error):
            hint = "Let it accept seed: def reset(self, *, seed=None, options=None)."
        given = "" if action is None else f" on the action {_short(action)}"
        return self._fault(f"{method} raised {told(error)}{given}", hint)

    def _fault(self, what: str, hint: str) -> EpisodeError:
        seed = "" if self._seed is None else f" (seed {self._seed})"
        return EpisodeError(
            f"{self._name}: {what}, at step {self._steps} of an episode{seed}. {hint}"
        )


def checked(env: Any) -> Checked:
    """Give an environment that checks what it returns: itself, if it does already."""
    return env if isinstance(env, Checked) else Checked(env, type(env).__name__)


class _Borrowed(gym.Env[Any, Any]):
    """An object that has the methods of an environment and another base class."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.observation_space = inner.observation_space
        self.action_space = inner.action_space
        self.metadata = getattr(inner, "metadata", None) or {}

    def reset(self, **options: Any) -> Any:
        return self.inner.reset(**options)

    def step(self, action: Any) -> Any:
        return self.inner.step(action)

    def close(self) -> None:
        if hasattr(self.inner, "close"):
            self.inner.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def misfit(space: Any, obs: Any, name: str = "") -> str:
    """Say how an observation differs from its space, at a place in it; "" where it fits."""
    kind = type(space).__name__
    where = f"{name}: " if name else ""
    if kind == "Dict":
        if not isinstance(obs, Mapping):
            return f"{where}{_described(obs)} instead of a dictionary"
        missing = [key for key in space.spaces if key not in obs]
        if missing:
            return f"{where}the keys {missing} are missing; it has {list(obs)}"
        pairs = [(key, each, obs[key]) for key, each in space.spaces.items()]
    elif kind == "Tuple":
        if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
            return f"{where}{_described(obs)} instead of {len(space.spaces)} parts"
        parts = zip(space.spaces, obs, strict=True)
        pairs = [(str(index), each, part) for index, (each, part) in enumerate(parts)]
    else:
        wrong = _array_misfit(space, kind, obs)
        return f"{where}{wrong}" if wrong else ""
    told = (misfit(each, part, f"{name}.{key}".strip(".")) for key, each, part in pairs)
    return next((text for text in told if text), "")


def _array_misfit(space: Any, kind: str, obs: Any) -> str:
    try:
        array = np.asarray(obs)
    except ValueError as error:
        return f"no array can be made of it: {error}"
    if array.dtype.kind not in "fiub":
        return f"{_described(obs)} instead of numbers"
    shape = () if kind == "Discrete" else tuple(np.shape(getattr(space, "nvec", ())))
    shape = tuple(space.shape) if kind in ("Box", "MultiBinary") else shape
    if array.shape != shape:
        return f"it has shape {array.shape} instead of {shape}"
    low: Any = 0
    high: Any = 1
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        if dtype.kind == "f" or array.dtype == dtype:
            return ""
        if dtype.kind != "b":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif kind != "MultiBinary":
        low = np.asarray(getattr(space, "start", 0))
        high = low + np.asarray(getattr(space, "nvec", getattr(space, "n", 1))) - 1
    return _choice_misfit(array, low, high)


def _choice_misfit(array: NDArray[Any], low: Any, high: Any) -> str:
    whole = array.dtype.kind in "iub" or bool((array == np.rint(array)).all())
    if not whole:
        return f"it holds fractions ({_short(array)}) where integers are declared"
    if ((array < low) | (array > high)).any():
        return f"it holds {_short(array)}, outside {low} to {high}"
    return ""


def _is_finite(obs: Any) -> bool:
    if isinstance(obs, Mapping):
        return all(map(_is_finite, obs.values()))
    if isinstance(obs, (tuple, list)):
        return all(map(_is_finite, obs))
    return bool(np.isfinite(obs).all())


def _described(value: Any) -> str:
    """Say what a value is, in a few words."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"an object of type {type(value).__name__}"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) < 80 else f"{text[:76]} …"


def told(error: BaseException) -> str:
    """An error's type, text and place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{place}: {error}"
