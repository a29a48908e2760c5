"""Contracts of other tools that say what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkd.deploy.contracts.files import read_contract
from agentkd.errors import LoadError
from tests.contract_files import ISAACLAB, MICRODUCK, MJLAB, RL_SAR, UNITREE, graph

HOSTILE = {
    "IO_descriptors.yaml": [
        (ISAACLAB.replace("    - 3\n", "    - -3\n"), "-3"),
        (ISAACLAB.replace("flatten_history_dim: true", "flatten_history_dim: false"), "not flat"),
        (ISAACLAB.replace("  - FL_hip\n", ""), "has 3 numbers"),
        (ISAACLAB.replace("  - FL_hip", '  - "FL\\n"', 1), "among action names"),
        (ISAACLAB.replace("  - FL_hip", "  - FR_hip", 1), "twice among action names"),
        (ISAACLAB.replace("dt: 0.02", "dt: -1"), "-1"),
        (ISAACLAB.replace("dt: 0.02", "dt: .nan"), "finite"),
        (ISAACLAB.replace("  policy:", "  critic:\n  - {name: x}\n  other:"), "critic"),
        (ISAACLAB.replace("clip: null\n  extras", "clip: [[1, 0]]\n  extras"), "bounds of 1 and 0"),
        (ISAACLAB.replace("actions:", "\tactions:"), "tab"),
        (ISAACLAB.replace("joint_position_action", "joint_velocity_action"), "joint_velocity"),
        (ISAACLAB.replace("JointPos", "RelativeJointPos"), "RelativeJointPositionAction"),
        (
            ISAACLAB.replace("{units: rad}", "{units: rad, modifiers: [{func: bias}]}"),
            "'joint_pos_rel' has modifiers",
        ),
        (
            ISAACLAB.replace("{history_length: 3}", "{history_length: 3, modifiers: [{a: 1}]}", 1),
            "'joint_pos_rel' has modifiers",
        ),
        (ISAACLAB + "actions: []\n", "twice"),
    ],
    "deploy.yaml": [
        (UNITREE.replace("step_dt: 0.02", "step_dt: soon"), "not a number"),
        (UNITREE.replace("[0.25, 0.25, 0.25]", "[.inf, 1, 1]"), "finite"),
        (UNITREE.replace("scale: [1.0, 1.0, 1.0]\n", "\n"), "no scale"),
        (UNITREE.replace("history_length: 3", "history_length: 99999999"), "1024"),
        (UNITREE.replace("joint_ids: null", "joint_ids: [7]"), "of 4 joints"),
        (UNITREE.replace("[3, 0,", "[2, 0,"), "each its own"),
        (UNITREE.replace("JointPosition", "JointVelocity"), "its action is 'JointVelocityAction'"),
        (
            UNITREE.replace("    params: {}", "    modifiers: [x]", 1),
            "'base_ang_vel' has modifiers",
        ),
        (
            UNITREE.replace("  JointPositionAction:", "  A: {}\n  JointPositionAction:"),
            "one is read",
        ),
    ],
    "config.yaml": [
        (RL_SAR.replace("[2, 1, 0]", "[2, -1, 0]"), "-1"),
        (RL_SAR.replace("[2, 1, 0]", "[2, 2, 0]"), "ages"),
        (RL_SAR.replace("observations_history_priority", "other"), "priority is missing"),
        (RL_SAR.replace('"term"  #', '"space"  #'), "space"),
        (RL_SAR.replace("num_observations: 17", "num_observations: 18"), "54"),
        (RL_SAR.replace("0.25, 0.5]", "0.5]"), "action scale has 3"),
    ],
    "manifest.json": [
        (MICRODUCK.replace("51", "-1"), "-1"),
        (MICRODUCK.replace(": 50", ": 0"), "control_hz"),
        (MICRODUCK.replace('"obs_len": 51', '"policies": []'), "set of policies"),
        ("{}", "no contract that is known"),
        ("[1, 2]\n", "no contract that is known"),
        ("just text", "no contract that is known"),
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [(name, *each) for name, all_of in HOSTILE.items() for each in all_of],
)
def test_a_file_that_says_what_cannot_be_is_refused(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    """The error names the file and the value."""
    (tmp_path / name).write_text(text)
    with pytest.raises(LoadError, match=name) as found:
        read_contract(tmp_path / name)
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action_scale": "1,x,3,4"}, "'x'"),
        ({"action_scale": "nan"}, "NaN"),
        ({"observation_terms_scale": "1,2"}, "2 entries for 5"),
        ({"observation_terms_history_length": "1e9,1,1,1,1"}, "1000000000"),
        ({"observation_terms_clip": "1,1,1,1,1"}, "a clip of 1"),
    ],
)
def test_metadata_that_cannot_be_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    """As in the other files; and a graph without any tells no contract."""
    (tmp_path / "policy.onnx").write_bytes(graph({**MJLAB, **change}))
    with pytest.raises(LoadError) as found:
        read_contract(tmp_path / "policy.onnx")
    assert words in str(found.value)
    (tmp_path / "policy.onnx").write_bytes(graph({"a": "b"}))
    with pytest.raises(LoadError, match="tells no contract"):
        read_contract(tmp_path / "policy.onnx")
