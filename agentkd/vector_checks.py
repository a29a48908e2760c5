"""Vectorised environments: what they return is checked, and one of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agentkd.environment_checks import Checked, told
from agentkd.errors import AgentkdError, EpisodeError, SpecError
from agentkd.printable import logger
from agentkd.spec import env_spec, flatten
from agentkd.types import Floats

log = logger(__name__)


def _mode(env: Any, name: str) -> AutoresetMode:
    """Tell how a `VectorEnv` resets, or raise an `EpisodeError`."""
    found = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    wanted = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
    for mode in wanted:
        if found in (mode, mode.value):
            return mode
    said = "does not say how it resets" if found is None else f"resets by {found}"
    raise EpisodeError(
        f"{name} is vectorised and {said}. Let its environments begin anew by themselves, at the "
        'next step or the same, and say which: metadata = {"autoreset_mode": '
        "gymnasium.vector.AutoresetMode.NEXT_STEP}."
    )


@final
class Together:
    """A `gymnasium.vector.VectorEnv` that checks what it returns, and names it in each error.

    Args:
        env: The environments.
        name: What they are called.

    Attributes:
        count: How many environments they are.
        next_step: Whether an environment that ended is reset by the next step, which does nothing
            else; otherwise the step that ended it has reset it.
        shape: An action's.
        dtype: An action's.

    Raises:
        EpisodeError: If they do not begin anew by themselves.
        SpecError: If their spaces are not supported.
    """

    def __init__(self, env: Any, name: str) -> None:
        self.env, self.name, self.count = env, name, int(env.num_envs)
        self.next_step = _mode(env, name) is AutoresetMode.NEXT_STEP
        try:
            self._spec = env_spec(env)
        except SpecError as error:
            raise SpecError(f"{name}: {error}") from error
        self.shape = env.single_action_space.shape or ()
        self.dtype = env.single_action_space.dtype
        self._steps = 0

    def reset(self, seed: int) -> Floats:
        """Begin all episodes; return the observations, flat, (count, obs)."""
        try:
            result: Any = self.env.reset(seed=seed)
        except AgentkdError:
            raise
        except Exception as error:
            raise self._fault(f"reset raised {told(error)}", _TRACEBACK) from error
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._fault("reset returned no pair", "Return (observations, info).")
        return self._flat(result[0], "reset")

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """Do a step; return observations (count, obs), rewards, terminated and truncated."""
        try:
            result: Any = self.env.step(actions)
        except AgentkdError:
            raise
        except Exception as error:
            raise self._fault(f"step raised {told(error)}", _TRACEBACK) from error
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._fault(
                "step returned no five values",
                "Return (observations, rewards, terminations, truncations, info).",
            )
        obs, reward, terminated, truncated, _ = result
        seen = self._flat(obs, "step")
        paid = np.asarray(self._column("rewards", reward, "biuf"), np.float32)
        wrong = np.flatnonzero(~np.isfinite(paid))
        if wrong.size:
            raise self._fault(
                f"The reward of environment {wrong[0]} of {self.count} is {paid[wrong[0]]}",
                "Return finite numbers.",
            )
        ends = [
            np.asarray(self._column(name, each, "b"))
            for name, each in (("terminations", terminated), ("truncations", truncated))
        ]
        self._steps += 1
        return seen, paid, ends[0], ends[1]

    def close(self) -> None:
        """Close them; an error of their own is logged and not raised."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            log.warning("%s: close raised %s. Nothing is lost.", self.name, told(error))

    def _flat(self, obs: Any, method: str) -> Floats:
        try:
            flat = flatten(self._spec.obs, obs)
        except (SpecError, ValueError, TypeError) as error:
            raise self._fault(
                f"{method} returned observations that do not fit observation_space: {error}",
                "Correct the space or the observations.",
            ) from error
        if len(flat) != self.count:
            raise self._fault(
                f"{method} returned {len(flat)} observations of {self.count} environments",
                "Return one for each.",
            )
        return flat

    def _column(self, name: str, values: Any, kinds: str) -> Any:
        found = np.asarray(values)
        if found.shape != (self.count,) or found.dtype.kind not in kinds:
            raise self._fault(
                f"step returned {name} of shape {found.shape} and dtype {found.dtype}",
                f"Return one for each environment, ({self.count},).",
            )
        return found

    def _fault(self, what: str, hint: str) -> EpisodeError:
        return EpisodeError(f"{self.name}: {what}, at step {self._steps}. {hint}")


_TRACEBACK = "AGENTKD_DEBUG=1 shows the traceback."


@final
class OneOf(gym.Env[Any, Any]):
    """The first environment of a `VectorEnv`, alone.

    Its episodes end with the observation that they ended in, however the `VectorEnv` resets.
    """

    def __init__(self, vector: Any, name: str) -> None:
        self.vector, self.name = vector, name
        self._same_step = _mode(vector, name) is AutoresetMode.SAME_STEP
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self.metadata = vector.metadata

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        more = {} if options is None else {"options": options}
        obs, _ = self.vector.reset(seed=seed, **more)
        return _first(obs), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Do a step."""
        actions = np.repeat(np.asarray(action)[None], self.vector.num_envs, axis=0)
        obs, reward, terminated, truncated, info = self.vector.step(actions)
        seen = _first(obs)
        if self._same_step and (terminated[0] or truncated[0]):
            if "final_obs" not in info:
                raise EpisodeError(
                    f"{self.name} resets at the same step and does not say what an episode ended "
                    'with. Give it in info["final_obs"].'
                )
            final = info["final_obs"]
            seen = _first(final) if isinstance(final, (Mapping, tuple)) else final[0]
        return seen, reward[0], terminated[0], truncated[0], {}

    def close(self) -> None:
        """Close the `VectorEnv`."""
        self.vector.close()


def _first(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {name: _first(each) for name, each in batch.items()}
    if isinstance(batch, tuple):
        return tuple(map(_first, batch))
    return batch[0]


def together(env: Any) -> Together | None:
    """Return the checked `VectorEnv` that an environment is, or is one of; None if it is single."""
    name = getattr(env, "_name", type(env).__name__)
    inner = env.env if isinstance(env, Checked) else env
    if isinstance(inner, OneOf):
        return Together(inner.vector, inner.name)
    return Together(env, name) if hasattr(inner, "num_envs") else None
