"""What a policy file does not tell and its user does: --planner-args."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from agentkd.errors import ConfigError, LoadError, did_you_mean
from agentkd.printable import printable
from agentkd.types import Floats

FLAG = "--planner-args"
_MOST = sys.float_info.max
ACTIVATIONS = {
    "celu": "CELU",
    "crelu": "CELU",  # so rsl_rl names it
    "elu": "ELU",
    "gelu": "GELU",
    "identity": "Identity",
    "leaky_relu": "LeakyReLU",
    "lrelu": "LeakyReLU",
    "mish": "Mish",
    "relu": "ReLU",
    "selu": "SELU",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "swish": "SiLU",
    "tanh": "Tanh",
}
"""Activations by the names that the libraries give them: their classes in torch.nn."""
_CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "distribution": ("gaussian", "heteroscedastic", "beta", "none"),
    "model": ("student", "teacher"),
    "normaliser": ("off",),
    "output": ("logits", "probabilities", "q-values", "tanh", "none"),
    "std_type": ("scalar", "log"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What a user tells about a policy file; None where nothing is told.

    Attributes:
        activation: Between the layers: "elu", "relu", "tanh", ….
        epsilon: Added to the normaliser's deviation.
        sigma: The deviation of each of the action's numbers, in the units of the policy's output;
            the answer becomes a Gaussian.
        action_scale: Multiplies the policy's output; it and `action_offset` are one number, or one
            for each of the action's.
        action_offset: Is added then, such as the default pose.
        distribution: What the last layer parametrises: "gaussian", "heteroscedastic", "beta", or
            "none" for an action.
        std_type: Of a heteroscedastic Gaussian, "scalar" or "log".
        model: Of a distillation, "student" or "teacher".
        normaliser: "off" if the file's normaliser is not the policy's.
        output: What the last numbers are: "logits", "probabilities" or "q-values" for choices;
            "tanh" if tanh follows, "none" if not.
    """

    activation: str | None = None
    epsilon: float | None = None
    sigma: Any = None
    action_scale: Any = None
    action_offset: Any = None
    distribution: str | None = None
    std_type: str | None = None
    model: str | None = None
    normaliser: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(f"{FLAG} {name}={value}: {did_you_mean(str(value), known)[1:]}")
        if self.epsilon is not None and not _number(self.epsilon, above=0.0):
            raise ConfigError(f"{FLAG} epsilon={self.epsilon}: a number above 0 is needed.")
        for name in ("sigma", "action_scale", "action_offset"):
            value = getattr(self, name)
            each = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            above = 0.0 if name == "sigma" else None
            if value is not None and not (each and all(_number(v, above=above) for v in each)):
                wanted = "a number" + (" above 0" if name == "sigma" else "")
                raise ConfigError(
                    f"{FLAG} {name}={value}: {wanted} is needed, or a list with one for each of "
                    "the action's."
                )

    def array(self, name: str, size: int) -> Floats | None:
        """Return `sigma`, `action_scale` or `action_offset` for `size` numbers, (size,).

        Raises:
            ConfigError: If it is a list of another length.
        """
        value = getattr(self, name)
        if value is None:
            return None
        found = np.asarray(value, np.float32)
        if found.ndim == 1 and len(found) != size:
            raise ConfigError(
                f"{FLAG} {name} is a list of {len(found)}; the action has {size} numbers."
            )
        return np.broadcast_to(found, (size,)).copy()


def _number(value: Any, above: float | None = None) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and -_MOST <= value <= _MOST and (above is None or value > above)


def options_of(args: Mapping[str, Any] | None) -> FileOptions:
    """Check the keys and values of --planner-args.

    Raises:
        ConfigError: If a key is unknown, or a value is none of its.
    """
    known = [each.name for each in fields(FileOptions)]
    for name in args or {}:
        if name not in known:
            raise ConfigError(f"{FLAG} {name}: no such key.{did_you_mean(name, known)}")
    return FileOptions(**(args or {}))


class Assumptions:
    """What was assumed about a file because nothing told it; announced once, together."""

    def __init__(self, where: str, options: FileOptions) -> None:
        self.where, self.options = where, options
        self._texts: list[str] = []
        self._used: set[str] = set()

    def given(self, name: str) -> Any:
        """Return an option and note that the file's format has a use for it."""
        self._used.add(name)
        return getattr(self.options, name)

    def array(self, name: str, size: int) -> Floats | None:
        """Return `sigma`, `action_scale` or `action_offset` for `size` numbers, (size,)."""
        self._used.add(name)
        return self.options.array(name, size)

    def assume(self, name: str, value: Any, why: str) -> Any:
        """Return the option, or the value assumed without it, which is then announced."""
        found = self.given(name)
        if found is not None:
            return found
        self._texts.append(f"{name}={value} ({why})")
        return value

    def note(self, text: str) -> None:
        """Announce something else."""
        self._texts.append(text)

    def ask(self, name: str, example: str, why: str) -> Any:
        """Return the option; a `ConfigError` asks for it where it is not given."""
        found = self.given(name)
        if found is None:
            raise ConfigError(f"{self.where}: {why} Say so: {FLAG} {name}={example}.")
        return found

    def activation(self, told: str | None, settings: object, default: str = "") -> str:
        """Return the activation between the layers: the user's, or what a run's settings tell.

        Where both are silent it is assumed by `default`, "elu" for that reason, or asked for.
        """
        found = (self.given("activation") or told or "").lower()
        if not found and default:
            return str(self.assume("activation", "elu", default))
        if not found:
            why = "it does not hold the activation between its layers."
            return str(self.ask("activation", "elu", why))
        if found not in ACTIVATIONS:
            raise LoadError(f"{settings}: the activation {found!r} is not known. See {FLAG}.")
        return found

    def refuse_missing_normaliser(self, promise: str) -> None:
        """Refuse a checkpoint without the normaliser that its run's settings promise.

        Raises:
            LoadError: Unless the user says that there is none.
        """
        if self.given("normaliser") != "off":
            raise LoadError(
                f"{self.where} holds no normaliser of observations, and {promise} promises one. "
                f"Give a checkpoint that has it; if the policy has none, say so: {FLAG} "
                "normaliser=off."
            )

    def announce(self) -> None:
        """Warn of all that was assumed.

        Raises:
            ConfigError: If an option was given that this format has no use for.
        """
        given = (each.name for each in fields(FileOptions))
        unused = [n for n in given if getattr(self.options, n) is not None and n not in self._used]
        if unused:
            raise ConfigError(f"{self.where}: its format has no use for {FLAG} {unused[0]}.")
        if self._texts:
            text = (
                f"{self.where} does not tell everything. Assumed: {'; '.join(self._texts)}. "
                f"If that is wrong, say so: {FLAG} KEY=VALUE."
            )
            warnings.warn(
                printable(text),  # it may quote the file
                UserWarning,
                stacklevel=5,  # who called `load_planner`
            )
