"""Contracts of other tools: read, written, and compared; each tool in one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import from_bytes, read_bundle, to_bytes, write_bundle
from agentkd.deploy.contract import Contract, ObsTerm
from agentkd.deploy.contracts.compare import compare, of_bundle
from agentkd.deploy.contracts.files import TOOLS, read_contract
from agentkd.deploy.contracts.told import UNCLIPPED, Told
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.architecture import initial
from agentkd.runtime import Agent
from tests.contract_files import (
    CONTRACT,
    ISAACLAB,
    JOINTS,
    MICRODUCK,
    MJLAB,
    RL_SAR,
    SPEC,
    TERMS,
    UNITREE,
    graph,
    write,
)

EXECUTOR = initial("mlp:4", SPEC)
BARE = tuple(replace(each, units="", parts=(), clip=UNCLIPPED) for each in TERMS)
SIZELESS = tuple(replace(each, size=None) for each in BARE)
FULL = tuple(
    replace(each, scale=each.scale * (1 if len(each.scale) > 1 else each.size or 1))
    for each in BARE
)
REAL = {
    # What each tool tells, beside what all do: scale, pose, gains.
    "isaaclab": replace(
        CONTRACT,
        slots=(),
        terms=(*(replace(each, clip=UNCLIPPED) for each in TERMS[:2]), *TERMS[2:]),
    ),
    "unitree": replace(CONTRACT, terms=FULL, action_names=()),
    "rl_sar": replace(CONTRACT, terms=BARE, obs_clip=100.0, robot="quad"),
    "mjlab": replace(CONTRACT, terms=SIZELESS, period=None, slots=()),
    "microduck": Contract(period=0.02, action_scale=(0.25,) * 4, robot="microduck"),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_of_each_tool_is_read(tool: str, tmp_path: Path) -> None:
    """Names, order, sizes, histories, scales, pose, gains, numbers of joints and rate."""
    told = read_contract(write(tool, tmp_path))
    found = told.contract
    if tool == "rl_sar":
        low = [
            p - 100 * s for p, s in zip(CONTRACT.action_offset, CONTRACT.action_scale, strict=True)
        ]
        assert found.target_low == pytest.approx(low)
        found = replace(found, target_low=(), target_high=())
    offset = found.action_offset
    assert offset == pytest.approx(REAL[tool].action_offset)
    assert replace(found, action_offset=REAL[tool].action_offset) == REAL[tool]
    assert (told.obs_size, told.action_size) == (None if tool == "mjlab" else 51, 4)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("deploy.yaml", UNITREE + "  use_gym_history: true\n", "history", "time"),
        ("config.yaml", RL_SAR.replace('priority: "term"', 'priority: "time"'), "history", "time"),
        (
            "deploy.yaml",
            UNITREE.replace(
                "    clip: null\n    joint",
                "    clip: [[-1, 1], [-1, 1], [-1, 1], [-.inf, 2]]\n    joint",
            ),
            "target_high",
            (1.0, 1.0, 1.0, 2.0),
        ),
        (
            "IO_descriptors.yaml",
            ISAACLAB.replace(
                "clip: null\n  extras", "clip: [[-1, 1], [-1, 1], [-2, 1], [-1, 1]]\n  extras"
            ),
            "target_low",
            (-1.0, -1.0, -2.0, -1.0),
        ),
        (
            "deploy.yaml",
            UNITREE.replace("joint_ids: null", "joint_ids: [3, 2, 1, 0]"),
            "slots",
            (2, 1, 0, 3),
        ),
        ("manifest.json", MICRODUCK.replace('"action_scale": 0.25,', ""), "action_scale", ()),
    ],
)
def test_what_else_a_file_may_tell(
    name: str, text: str, field: str, value: Any, tmp_path: Path
) -> None:
    """Histories tick after tick, where targets are cut off, some of a robot's joints."""
    (tmp_path / name).write_text(text)
    assert getattr(read_contract(tmp_path / name).contract, field) == value


def test_terms_of_one_function_are_numbered(tmp_path: Path) -> None:
    """Isaac Lab names terms for the functions that compute them."""
    two = ISAACLAB.replace("name: last_action", "name: generated_commands")
    (tmp_path / "x.yaml").write_text(two)
    names = [each.name for each in read_contract(tmp_path / "x.yaml").contract.terms]
    assert names[2::2] == ["velocity_commands", "velocity_commands 2"]


def bundle_of(tmp_path: Path, contract: Contract, name: str = "mine") -> Path:
    """An executor's file with a contract."""
    path = tmp_path / f"{name}.akd"
    write_bundle(path, EXECUTOR, contract=contract)
    return path


LOST = {
    "isaaclab": ["joint numbers"],
    "unitree": ["joint order"],
    "rl_sar": ["control rate"],
    "mjlab": ["observation size", "joint numbers", "control rate"],
    "microduck": [
        *("observation order", "joint order", "default pose"),
        *("stiffness", "damping", "joint numbers"),
    ],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_of_each_tool_is_written_with_the_policy(
    tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what the executor's file says, and what it does not tell is printed."""
    even = replace(CONTRACT, action_scale=(0.25,) * 4)
    file = bundle_of(tmp_path, even if tool == "microduck" else CONTRACT)
    out = tmp_path / "made" / "policy.onnx"
    words = ["export", str(file), f"--out={out}", "--contract", tool]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"{tool} does not tell: {', '.join(LOST[tool])}" in said
    names = {TOOLS[tool].file, "policy.onnx"} - {""}
    assert {each.name for each in out.parent.iterdir()} == names
    assert [each.name for each in onnx.load(out).graph.output] == ["actions"]
    path = out.with_name(TOOLS[tool].file or out.name)
    found = list(compare(of_bundle(read_bundle(file)), read_contract(path)))
    assert not [each for each in found if each.status == "differs"]
    assert main(words) == 0


def swapped(terms: tuple[ObsTerm, ...]) -> tuple[ObsTerm, ...]:
    """The first two in the other order."""
    return (terms[1], terms[0], *terms[2:])


def shorter(terms: tuple[ObsTerm, ...]) -> tuple[ObsTerm, ...]:
    """Two observations in place of three."""
    return tuple(replace(each, history=(1, 0)) for each in terms)


CHANGES: dict[str, tuple[Any, str, str, str]] = {
    # By name: the change, the values here and there, and the tools that do not tell it.
    "observation order": (
        {"terms": swapped(TERMS)},
        "base_ang_vel, proj",
        "projected_gravity, base",
        "microduck",
    ),
    "history length": ({"terms": shorter(TERMS)}, "3 here", "2 in", "microduck"),
    "action scale": ({"action_scale": (0.5,) * 4}, "0.25 here", "0.5 in", ""),
    "default pose": ({"action_offset": (0.1, 0.3, 0.1, -0.1)}, "-0.1 here", "0.3 in", "microduck"),
    "control rate": ({"period": 0.01}, "50 Hz here", "100 Hz in", "mjlab"),
    "joint order": ({"action_names": JOINTS[::-1]}, "FR_hip", "RL_hip", "unitree microduck"),
}


@pytest.mark.parametrize(
    ("tool", "change"),
    [(tool, name) for tool in TOOLS for name, each in CHANGES.items() if tool not in each[3]],
)
def test_each_mismatch_is_named_with_both_values(
    tool: str, change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the tool's own file, which the robot would have kept to."""
    fields, here, there, _ = CHANGES[change]
    path = write(tool, tmp_path)
    if tool == "microduck":
        text = path.read_text()
        old, new = {"action scale": ("0.25", "0.5"), "control rate": (": 50", ": 100")}[change]
        path.write_text(text.replace(old, new))
        mine = bundle_of(tmp_path, replace(CONTRACT, action_scale=(0.25,) * 4))
    else:
        mine = bundle_of(tmp_path, CONTRACT)
        wrong = replace(CONTRACT, **fields)
        if change == "history length":
            # Its own executor, of which there are 34 numbers.
            spec = replace(
                SPEC, obs=replace(SPEC.obs, parts=(replace(SPEC.obs.parts[0], shape=(34,)),))
            )
            write_bundle(tmp_path / "other.akd", initial("mlp:4", spec), contract=wrong)
            other = tmp_path / "other.akd"
        else:
            other = bundle_of(tmp_path, wrong, "other")
        out = tmp_path / "made" / "policy.onnx"
        assert main(["export", str(other), f"--out={out}", "--contract", tool]) == 0
        path = out.with_name(TOOLS[tool].file or out.name)
        if tool == "rl_sar":
            rate = 1 if change == "control rate" else 2
            path.with_name("base.yaml").write_text(f"quad: {{dt: 0.01, decimation: {rate}}}\n")
    capsys.readouterr()
    assert main(["verify", str(mine), "--contract", str(path), "--rows", "0"]) == 1
    said = capsys.readouterr().out
    (line,) = [
        each for each in said.splitlines() if each.strip().startswith(change) and "differs" in each
    ]
    assert here in line
    assert there in line
    assert change in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("history", "time", "history layout"),
        (
            "terms",
            (replace(TERMS[0], history=(0, 1, 2)), *TERMS[1:]),
            "history order of base_ang_vel",
        ),
        ("terms", (replace(TERMS[0], scale=(1.0,)), *TERMS[1:]), "scale of base_ang_vel"),
        ("terms", (replace(TERMS[0], clip=(-1.0, 1.0)), *TERMS[1:]), "clip of base_ang_vel"),
        ("slots", (0, 1, 2, 3), "joint numbers"),
        ("stiffness", (20.0, 20.0, 20.0, 41.0), "stiffness of RL_hip"),
        ("damping", (1.0,) * 4, "damping of FR_hip"),
        ("target_low", (-2.0,) * 4, "lowest targets"),
        ("obs_clip", 5.0, "observation clip"),
        ("robot", "other", "robot"),
    ],
)
def test_what_else_differs_is_named(field: str, value: Any, name: str) -> None:
    """Layout and order of histories, scales, clips, gains, numbers of joints, and the robot."""
    mine = replace(
        CONTRACT,
        terms=(replace(TERMS[0], clip=(-9.0, 9.0)), *TERMS[1:]),
        target_low=(-1.0,) * 4,
        obs_clip=100.0,
        robot="quad",
    )
    other = replace(mine, **{field: value})
    if field == "terms" and value[0].clip is None:
        other = replace(other, terms=(replace(value[0], clip=(-9.0, 9.0)), *value[1:]))
    found = compare(Told(mine, 51, 4), Told(other, 51, 4))
    assert name in [each.name for each in found if each.status == "differs"]


def test_sizes_are_compared_where_nothing_else_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An executor that tells nothing is compared by its sizes, which is said."""
    file = bundle_of(tmp_path, Contract())
    path = write("microduck", tmp_path)
    assert main(["verify", str(file), "--contract", str(path), "--rows", "0"]) == 0
    assert "Only sizes could be compared" in capsys.readouterr().out
    path.write_text(MICRODUCK.replace("51", "61"))
    assert main(["verify", str(file), "--contract", str(path), "--rows", "0"]) == 1
    assert "51 here, 61 in" in capsys.readouterr().out


def test_numbers_that_a_tool_rounds_are_the_same(tmp_path: Path) -> None:
    """mjlab rounds to three decimals, Unitree to three digits."""
    mine = Told(replace(CONTRACT, action_offset=(0.12345, -1.2345, 0.0004, 2.0)), 51, 4)
    rounded = replace(CONTRACT, action_offset=(0.123, -1.23, 0.0, 2.0))
    assert not [e for e in compare(mine, Told(rounded, 51, 4)) if e.status == "differs"]


def test_the_contract_lies_in_the_executor_s_file() -> None:
    """All of it comes back, and files without one are the bytes they were."""
    told = replace(
        CONTRACT,
        history="time",
        obs_clip=100.0,
        target_low=(-1.0,) * 4,
        target_high=(1.0,) * 4,
        robot="quad",
        terms=(replace(TERMS[0], clip=(-1.0, 2.0)), *TERMS[1:]),
    )
    assert from_bytes(to_bytes(EXECUTOR, {}, contract=told)).contract == told
    plain = from_bytes(to_bytes(EXECUTOR, {})).manifest["contract"]
    assert set(plain) == {"observation", "normaliser", "action", "period", "memory"}
    assert set(plain["observation"]) == {"size", "names", "units"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"terms": TERMS[:2]}, "make up 18 numbers"),
        ({"terms": (TERMS[0], TERMS[0])}, "stands twice"),
        ({"terms": (ObsTerm("x", 51, scale=(1.0, 2.0)),)}, "for 51 numbers"),
        ({"terms": (ObsTerm("x", 51, history=()),)}, "ages"),
        ({"terms": (ObsTerm("x", 51, clip=(0.0, float("inf"))),)}, "infinite"),
        ({"action_scale": (1.0, 2.0)}, "action scale: 2 numbers; the action has 4"),
        ({"stiffness": (1.0, 2.0, 3.0, float("nan"))}, "NaN"),
        ({"slots": (1 << 40, 0, 1, 2)}, r"0 to 4,096"),
        ({"slots": (-1, 0, 1, 2)}, r"0 to 4,096"),
        ({"slots": (1, 0, 1, 2)}, "each its own"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(change: Any, words: str) -> None:
    """Terms make up the observation, and each number of the action has its own."""
    with pytest.raises(ConfigError, match=words):
        to_bytes(EXECUTOR, {}, contract=replace(CONTRACT, **change))


@pytest.mark.parametrize(
    ("tool", "change", "words"),
    [
        ("isaaclab", {"terms": ()}, "isaaclab needs the observation's terms"),
        ("isaaclab", {"period": None}, "the control period"),
        ("isaaclab", {"history": "time"}, "term after term"),
        ("unitree", {"slots": ()}, "the robot's numbers of the joints"),
        ("rl_sar", {"terms": (ObsTerm("height_scan", 51),)}, "no term 'height_scan'"),
        (
            "rl_sar",
            {"terms": (replace(TERMS[0], history=(1, 0)), ObsTerm("last_action", 45))},
            "several",
        ),
        ("microduck", {}, "has 2"),
        ("mjlab", {"terms": (), "action_scale": ()}, "mjlab needs"),
    ],
)
def test_what_a_tool_cannot_do_without_is_asked_for(
    tool: str, change: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is guessed, and no file is written."""
    file = bundle_of(tmp_path, replace(CONTRACT, **change))
    out = tmp_path / "made" / "policy.onnx"
    assert main(["export", str(file), f"--out={out}", "--contract", tool]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_contract_goes_with_onnx_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another target, another flavour, an unknown tool, and a file that is there."""
    file = str(bundle_of(tmp_path, CONTRACT))
    onnx_file = f"--out={tmp_path / 'policy.onnx'}"
    for words, said in (
        ([f"--out={tmp_path / 'x.c'}", "--contract", "unitree"], "goes with onnx"),
        ([onnx_file, "--contract", "unitree", "--flavour", "plain"], "the flavour rsl-rl"),
        ([onnx_file, "--contract", "unitre"], "Did you mean 'unitree'"),
    ):
        assert main(["export", file, *words]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "deploy.yaml").write_text(UNITREE)
    assert main(["export", file, onnx_file, "--contract", "unitree"]) == 2
    assert "says something else" in capsys.readouterr().err
    assert (tmp_path / "deploy.yaml").read_text() == UNITREE
    assert not (tmp_path / "policy.onnx").exists()


def test_policy_and_contract_have_their_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one file for both; one contract for two policies; what cannot be read stays."""
    file = str(bundle_of(tmp_path, CONTRACT))
    words = ["--to", "onnx", "--contract", "unitree"]
    assert main(["export", file, f"--out={tmp_path / 'deploy.yaml'}", *words]) == 2
    assert "name another file" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "deploy.yaml").exists()
    for name in ("p1.onnx", "p2.onnx"):
        assert main(["export", file, f"--out={tmp_path / name}", *words]) == 0
    (tmp_path / "deploy.yaml").write_text("mine")
    read = Path.read_bytes

    def closed(path: Path) -> bytes:
        if path.name == "deploy.yaml":
            raise PermissionError("closed")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", closed)
    assert main(["export", file, f"--out={tmp_path / 'p3.onnx'}", *words]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert (tmp_path / "deploy.yaml").read_text() == "mine"


def test_python_writes_a_contract_too(tmp_path: Path) -> None:
    """`Executor.export` takes the tool."""
    bundle_of(tmp_path, CONTRACT)
    from agentkd import load

    executor = load(tmp_path / "mine.akd", native=False)
    executor.export(tmp_path / "made" / "p.onnx", contract="unitree")
    assert {each.name for each in (tmp_path / "made").iterdir()} == {"p.onnx", "deploy.yaml"}


def test_joints_without_a_motor_are_left_out(tmp_path: Path) -> None:
    """mjlab names all joints; which of them act is not told."""
    (tmp_path / "policy.onnx").write_bytes(graph({**MJLAB, "joint_names": "a,b,c,d,e"}))
    found = read_contract(tmp_path / "policy.onnx").contract
    assert (found.action_names, found.action_offset) == ((), ())
    assert found.action_scale == CONTRACT.action_scale


def test_a_swap_that_means_something_else_is_refused() -> None:
    """Another scale of the same numbers would move the robot elsewhere."""

    def held(contract: Contract) -> Any:
        bundle = from_bytes(to_bytes(EXECUTOR, {}, contract=contract))
        return replace(bundle.executor, about=replace(bundle.executor.about, contract=contract))

    agent = Agent(held(CONTRACT), native=False)
    agent.swap(held(replace(CONTRACT, period=0.0201)))
    with pytest.raises(SpecError, match=r"action scale of FR_hip is 1, the present one's 0\.25"):
        agent.swap(held(replace(CONTRACT, action_scale=(1.0, 0.5, 0.5, 0.5))))
