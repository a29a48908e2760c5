"""Policies as TorchScript: memories in buffers, and code that is read before it is loaded."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agentkd.errors import LoadError, PlannerError, SpecError, UnsafeError
from agentkd.planners import Planner
from agentkd.planners.files.network import free_box, own_spec
from agentkd.spec import Spec
from tests.policy_files import answers
from tests.policy_files import load as load_quietly

SPEC = own_spec(5, free_box(3))
WEIGHT = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
OBS = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


def load(path: Path, spec: Spec | None = SPEC, **args: Any) -> Planner:
    """Load a file, of five observations and three actions if nothing else is said."""
    return load_quietly(path, spec, **args)


class Plain(nn.Module):
    """A policy without a memory."""

    def __init__(self) -> None:
        """Make its layers."""
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act."""
        return self.actor(x)


class One(Plain):
    """A policy that takes one row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act."""
        return self.actor(x.reshape(5)).reshape(1, 3)


class Legged(nn.Module):
    """A recurrent policy as legged_gym exports it: buffers, and reset_memory."""

    def __init__(self) -> None:
        """Make its layers."""
        super().__init__()
        self.memory, self.actor = nn.LSTM(5, 4), nn.Linear(4, 3)
        self.register_buffer("hidden_state", torch.zeros(1, 1, 4))
        self.register_buffer("cell_state", torch.zeros(1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act and remember."""
        out, (h, c) = self.memory(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(out.squeeze(0))

    @torch.jit.export
    def reset_memory(self) -> None:
        """Forget."""
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


def scripted(module: nn.Module, path: Path) -> Path:
    """Write a module as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(str(path))
    return path


@pytest.mark.parametrize("kind", [Plain, One])
def test_torchscript_answers_batches_and_single_rows(kind: Any, tmp_path: Path) -> None:
    """A module that takes one row is asked row by row."""
    module = kind()
    for spec in (SPEC, None):
        planner = load(scripted(module, tmp_path / "policy.pt"), spec)
        (answer,) = answers(planner, OBS[None])
        with torch.no_grad():
            np.testing.assert_allclose(
                answer.action, module.actor(torch.from_numpy(OBS)), atol=1e-5
            )
    assert planner.parameters == 75


@pytest.mark.parametrize("form", ["traced", "frozen", "optimised"])
def test_torchscript_in_each_form_that_torch_writes(form: str, tmp_path: Path) -> None:
    """A traced module's file also holds what it was traced with."""
    module = Plain().eval()
    path = tmp_path / "policy.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "traced":
            made: Any = torch.jit.trace(module, torch.zeros(1, 5))
        else:
            make = torch.jit.freeze if form == "frozen" else torch.jit.optimize_for_inference
            made = make(torch.jit.script(module))
        made.save(str(path))
        planner = load(path)
        (answer,) = answers(planner, OBS[None])
        with torch.no_grad():
            wanted = module.actor(torch.from_numpy(OBS))
    np.testing.assert_allclose(answer.action, wanted, atol=1e-5)


class Scratch(nn.Module):
    """Answers with the array that it remembers in."""

    def __init__(self) -> None:
        """Set up."""
        super().__init__()
        self.actor = nn.Linear(5, 3)
        self.register_buffer("out", torch.zeros(1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act, and write over the answer of before."""
        self.out[:] = self.actor(x) + 0.5 * self.out
        return self.out  # type: ignore[return-value]


def test_answers_are_not_written_over(tmp_path: Path) -> None:
    """Each row has its own answer, though the module gives the same place for all."""
    module = Scratch()
    planner = load(scripted(module, tmp_path / "policy.pt"))
    (answer,) = answers(planner, OBS[None])
    with torch.no_grad():
        np.testing.assert_allclose(answer.action, module.actor(torch.from_numpy(OBS)), atol=1e-5)


class Complex(nn.Module):
    """Answers with complex numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act."""
        return torch.complex(x[:, :3], x[:, :3])


class Prints(Plain):
    """Writes to the terminal."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act."""
        print(x)  # noqa: T201
        return self.actor(x)


class Seeds(Plain):
    """Makes torch's random numbers the same again and again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act."""
        torch.manual_seed(0)
        return self.actor(x)


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        (Complex, PlannerError, "complex64, not a tensor of numbers"),
        (Prints, UnsafeError, "'print', which may touch"),
        (Seeds, UnsafeError, "'manual_seed', which may touch"),
    ],
)
def test_torchscript_that_does_more_than_answer_is_refused(
    kind: Any, error: Any, said: str, tmp_path: Path
) -> None:
    """What it prints would reach the terminal, and its seed all of the program."""
    with pytest.raises(error, match=said):
        load(scripted(kind(), tmp_path / "policy.pt"))


def test_torchscript_with_a_memory_keeps_rows_apart(tmp_path: Path) -> None:
    """An episode begins where the file's reset puts its buffers, not where they were left."""
    module = Legged().eval()
    module.hidden_state.fill_(3.0)
    planner = load(scripted(module, tmp_path / "policy.pt"))
    obs = np.random.default_rng(0).standard_normal((7, 4, 5)).astype(np.float32)
    found = answers(planner, obs)
    for row in range(4):
        module.reset_memory()
        for tick in range(7):
            with torch.no_grad():
                wanted = module(torch.from_numpy(obs[tick, row : row + 1]))
            np.testing.assert_allclose(found[tick].action[row : row + 1], wanted, atol=1e-5)


class Writes(nn.Module):
    """A policy whose code maps a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act, and more."""
        return x[:, :3] + torch.from_file("/tmp/agentkd-never", shared=True, size=3)


class Draws(Plain):
    """A policy that draws random numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act at random."""
        return self.actor(x) + torch.randn(3)


def test_torchscript_that_touches_files_is_not_loaded(tmp_path: Path) -> None:
    """Its code is read first. An operation spelt otherwise, or of another library, is refused."""
    path = scripted(Writes(), tmp_path / "policy.pt")
    with pytest.raises(UnsafeError, match=r"from_file.*torch\.jit\.load"):
        load(path)
    scripted(Plain(), path)
    for code in (
        "torch.save(x, 'y')",
        "t = torch; getattr(t, 'fro\\x6d_file')",
        'getattr(torch, "sa" "ve")',
        'getattr(torch, "sa""ve")',
        "ops.c10d.barrier(x)",
        "o = ops; o.c10d.barrier(x)",
        "__torch__.torch.classes.a.B",
    ):
        with zipfile.ZipFile(path) as file:
            entries = {name: file.read(name) for name in file.namelist()}
        name = next(n for n in entries if "/code/" in n and n.endswith(".py"))
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
            for each, data in entries.items():
                file.writestr(each, data + f"\n# {code}\n".encode() if each == name else data)
        with pytest.raises(UnsafeError, match="its code uses"):
            load(tmp_path / "x.pt")
    assert not Path("/tmp/agentkd-never").exists()


def rewritten(path: Path, out: Path, change: Any) -> Path:
    """Write a TorchScript file whose entries are those that `change` makes of (name, bytes)."""
    with zipfile.ZipFile(path) as file:
        entries = [(name, file.read(name)) for name in file.namelist()]
    with zipfile.ZipFile(out, "w") as file:
        for name, data in (each for entry in entries for each in change(*entry)):
            file.writestr(zipfile.ZipInfo(name), data)
    return out


class Saves(nn.Module):
    """A policy whose code writes a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Act, and more."""
        torch.save(x, "/tmp/agentkd-never")
        return x[:, :3]


def test_the_case_of_a_name_hides_nothing_from_the_check(tmp_path: Path) -> None:
    """Torch finds X.PY where it looks for x.py; so does the check."""
    path, out = scripted(Saves(), tmp_path / "policy.pt"), tmp_path / "x.pt"

    def upper(name: str, data: bytes) -> Any:
        if name.endswith("debug_pkl"):
            return []
        before, dot, end = name.rpartition(".")
        return [(before + dot + end.upper() if end in ("py", "pkl") else name, data)]

    with pytest.raises(UnsafeError, match="its code uses 'save'"):
        load(rewritten(path, out, upper))
    assert not Path("/tmp/agentkd-never").exists()
    greedy = b"\x80\x02Nr\xff\xff\xff\x7f."
    scripted(Plain(), path)

    def hungry(name: str, data: bytes) -> Any:
        return [(name[:-4] + ".PKL", greedy) if name.endswith("data.pkl") else (name, data)]

    with pytest.raises(LoadError, match="more than 262,144 parts"):
        load(rewritten(path, out, hungry))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("policy/code/__torch__.PYX", "which no TorchScript file needs"),
        ("policy/more.pkl", "which no TorchScript file needs"),
        ("policy/DATA.pkl", "differ in case or folder only"),
        ("Policy/data.pkl", "differ in case or folder only"),
        ("other/data/77", "differ in case or folder only"),
    ],
)
def test_torchscript_with_an_entry_of_another_kind_is_refused(
    name: str, said: str, tmp_path: Path
) -> None:
    """Nothing is loaded that was not checked."""
    path = scripted(Plain(), tmp_path / "policy.pt")

    def more(each: str, data: bytes) -> Any:
        return [(each, data)] + ([(name, b"x")] if each.endswith("/version") else [])

    with pytest.raises(UnsafeError, match=said):
        load(rewritten(path, tmp_path / "x.pt", more))


def test_torchscript_is_read_without_the_files_that_its_author_added(tmp_path: Path) -> None:
    """`torch.jit.save(_extra_files=)` keeps them apart from the module."""
    path = tmp_path / "policy.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module: Any = torch.jit.script(Plain().eval())
        module.save(str(path), _extra_files={"about.json": b"{}"})
    assert load(path).parameters == 75


def test_torchscript_whose_pickle_wants_gigabytes_is_refused(tmp_path: Path) -> None:
    """A place of 2^31 in a table makes torch take 32 GiB; what tells the source is dropped."""
    path = scripted(Plain(), tmp_path / "policy.pt")
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    greedy = b"\x80\x02Nr\xff\xff\xff\x7f."
    for end, refused in (("constants.pkl", True), (".debug_pkl", False)):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
            for name, data in entries.items():
                file.writestr(name, greedy if name.endswith(end) else data)
        if refused:
            with pytest.raises(LoadError, match="more than 262,144 parts"):
                load(tmp_path / "x.pt")
        else:
            load(tmp_path / "x.pt")


def test_torchscript_that_is_random_or_of_another_environment_is_refused(tmp_path: Path) -> None:
    """Both are said when it is loaded."""
    with pytest.raises(PlannerError, match="random"):
        load(scripted(Draws(), tmp_path / "policy.pt"))
    with pytest.raises(SpecError, match=r"fails for the environment's observations, \(1, 4\)"):
        load(scripted(Plain(), tmp_path / "policy.pt"), own_spec(4, free_box(3)))
    with pytest.raises(SpecError, match=r"shape \(1, 3\); \(batch, 2\) was expected"):
        load(tmp_path / "policy.pt", own_spec(5, free_box(2)))
