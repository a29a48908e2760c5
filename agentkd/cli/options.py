"""Options that several commands have, and how planners are read by them."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from inspect import get_annotations
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Union,
    final,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from agentkd.environments import folder_name, read_arguments
from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.distillation.task import Task


@final
@dataclass(frozen=True, kw_only=True)
class Access:
    """How a planner's file is read, and what the planner sees."""

    vecnormalize: str | None = None
    """Statistics of the planner's normaliser, if not beside it; "off" for none."""
    algorithm: str | None = None
    """The SB3 algorithm, if the save does not tell."""
    unpickle: bool = False
    """Read a save by running the code in it. Only for files whose maker you trust."""
    planner_args: tuple[str, ...] = ()
    """What a policy file does not tell: KEY=VALUE, such as activation=elu, or a JSON object. Or
    further arguments of a function that makes a planner."""
    planner_sees: str | None = None
    """What the planner sees of the observation: keys (state,terrain), places (0:2,4:5), or
    module:function."""


AS_IT_IS = Access()


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What may read an SB3 save."""

    saves: tyro.conf.OmitArgPrefixes[Access] = AS_IT_IS
    """How an SB3 save is read."""


@dataclass(frozen=True, kw_only=True)
class Reported(Loading):
    """What leaves a report, if it is asked for."""

    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""


@dataclass(frozen=True, kw_only=True)
class Planned(Loading):
    """An environment, a planner for it, and a folder to write into."""

    folder: ClassVar[str]
    """What the name of the folder begins with, where none is given."""
    env: tyro.conf.Positional[str]
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    planner: tuple[str, ...]
    """An SB3 save, a policy file, a folder with one, or module:attribute; several: an ensemble."""
    overwrite: bool = False
    """Replace what an earlier run left in the folder."""
    out: Path | None = None
    """Where to write; by default a folder in runs/ with the name of the environment."""

    @property
    def place(self) -> Path:
        """The folder that the command writes into, by default runs/FOLDER-ENV."""
        return self.out or Path("runs") / f"{self.folder}-{folder_name(self.env)}"


@dataclass(frozen=True, kw_only=True)
class Learning(Planned):
    """A planner whose labels are collected, and episodes to measure it over."""

    environments: int = 16
    """How many environments are stepped together."""
    episodes: int = 20
    """Episodes to measure each policy over, on the same seeds."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""


def own_first(options: Any) -> None:
    """Show a command's own options in its help before those that several commands share."""
    fields = options.__dataclass_fields__
    order = dict.fromkeys(("env", "env_args", "planner", *get_annotations(options), *fields))
    options.__dataclass_fields__ = {name: fields[name] for name in order if name in fields}
    _spell_out(options)


def _spell_out(options: Any) -> None:
    """Spell `X | None` so that tyro needs no typeguard, which takes a start 60 ms and 4 MB."""

    def spelt(hint: Any) -> Any:
        if get_origin(hint) is Annotated:
            return Annotated[(spelt(get_args(hint)[0]), *get_args(hint)[1:])]
        if is_dataclass(hint):
            _spell_out(hint)
        return Union[get_args(hint)] if isinstance(hint, UnionType) else hint  # noqa: UP007

    hints = get_type_hints(options, include_extras=True)
    options.__annotations__ = {name: spelt(hint) for name, hint in hints.items()}


def reference(options: Any) -> str | tuple[str, ...]:
    """Return the one reference in `options.planner`, or all of an ensemble's.

    Raises:
        ConfigError: If there is none.
    """
    planner: tuple[str, ...] = options.planner
    if not planner:
        raise ConfigError("--planner needs at least one reference.")
    return planner[0] if len(planner) == 1 else planner


def open_planned(options: Planned) -> Task:
    """Open a command's environment and planner; torch gets one thread."""
    import torch

    from agentkd.distillation.task import open_task

    torch.set_num_threads(1)
    sees = getattr(options, "executor_sees", None)
    return open_task(options.env, reference(options), executor_sees=sees, **access(options.saves))


def told_again(saves: Access) -> list[str]:
    """Return the words by which another command sees a planner as this one did."""
    sees = [] if saves.planner_sees is None else ["--planner-sees", saves.planner_sees]
    return [*sees, *(["--planner-args", *saves.planner_args] if saves.planner_args else [])]


def access(saves: Access) -> dict[str, Any]:
    """Return `load_planner`'s own options, by name."""
    return {
        "vecnormalize": saves.vecnormalize,
        "algorithm": saves.algorithm,
        "allow_pickle": saves.unpickle,
        "args": read_arguments(saves.planner_args, "--planner-args") or None,
        "sees": saves.planner_sees,
    }
