"""Contracts of one robot of four joints, as other tools write them."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

from agentkd.deploy.contract import Contract, ObsTerm
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec

JOINTS = ("FR_hip", "FL_hip", "RR_hip", "RL_hip")
AGES = (2, 1, 0)
TERMS = (
    ObsTerm("base_ang_vel", 3, AGES, (0.25,), None, "rad/s", ("X", "Y", "Z")),
    ObsTerm("projected_gravity", 3, AGES, (1.0,)),
    ObsTerm("velocity_commands", 3, AGES, (2.0, 2.0, 0.25)),
    ObsTerm("joint_pos_rel", 4, AGES, (1.0,), None, "rad", JOINTS),
    ObsTerm("last_action", 4, AGES, (1.0,)),
)
CONTRACT = Contract(
    action_names=JOINTS,
    period=0.02,
    terms=TERMS,
    action_scale=(0.25, 0.25, 0.25, 0.5),
    action_offset=(0.1, -0.1, 0.1, -0.1),
    stiffness=(20.0, 20.0, 20.0, 40.0),
    damping=(0.5, 0.5, 0.5, 1.0),
    slots=(3, 0, 1, 2),
)
SPEC = Spec(ObsSpec((Part("", "box", (51,), "float32"),)), BoxSpec((-10.0,) * 4, (10.0,) * 4, (4,)))

ISAACLAB = """\
# written by a simulator
actions:
- action_type: JointAction
  clip: null
  extras:
    description: Joint action term that applies the processed actions to the articulation's
      joints as position commands.
  full_path: isaaclab.envs.mdp.actions.joint_actions.JointPositionAction
  joint_names: &id001
  - FR_hip
  - FL_hip
  - RR_hip
  - RL_hip
  name: joint_position_action
  offset:
  - 0.10000000149011612
  - -0.10000000149011612
  - 0.10000000149011612
  - -0.10000000149011612
  scale: [[0.25, 0.25, 0.25, 0.5], [0.25, 0.25, 0.25, 0.5]]
  shape:
  - 4
articulations:
  robot:
    default_joint_damping: [0.5, 0.5, 1.0, 0.5]
    default_joint_stiffness: [20.0, 20.0, 40.0, 20.0]
    joint_names: [FR_hip, FL_hip, RL_hip, RR_hip]
observations:
  policy:
  - extras:
      axes:
      - X
      - Y
      - Z
      units: rad/s
    name: base_ang_vel
    overloads: {clip: null, flatten_history_dim: true, history_length: 3, scale: 0.25}
    shape:
    - 3
  - name: projected_gravity
    overloads: {clip: null, flatten_history_dim: true, history_length: 3, scale: null}
    shape: [3]
  - extras:
      description: 'The generated command: from command term
        it''s in the manager.'
    name: generated_commands
    overloads:
      history_length: 3
      scale: [2.0, 2.0, 0.25]
    shape: [3]
  - extras: {units: rad}
    joint_names: *id001
    name: joint_pos_rel
    overloads: {history_length: 3}
    shape: [4]
  - name: last_action
    overloads: {history_length: 3}
    shape: [4]
scene:
  decimation: 4
  dt: 0.02
  physics_dt: 0.005
"""

UNITREE = """\
joint_ids_map: [3, 0,
  1, 2]
step_dt: 0.02
stiffness: [20.0, 20.0, 40.0, 20.0]
damping: [0.5, 0.5, 1.0, 0.5]
default_joint_pos: [0.1, -0.1, 0.1, -0.1]
commands:
  base_velocity:
    ranges:
      lin_vel_x: [0, 0]
      heading: null
actions:
  JointPositionAction:
    clip: null
    joint_names: [.*]
    scale: [0.25, 0.25, 0.25,
      0.5]
    offset: [0.1, -0.1, 0.1, -0.1]
    joint_ids: null
observations:
  base_ang_vel:
    params: {}
    clip: null
    scale: [0.25, 0.25, 0.25]
    history_length: 3
  projected_gravity:
    params: {}
    clip: null
    scale: [1.0, 1.0, 1.0]
    history_length: 3
  velocity_commands:
    params: {command_name: base_velocity}
    clip: null
    scale: [2.0, 2.0, 0.25]
    history_length: 3
  joint_pos_rel:
    params: {}
    clip: null
    scale: [1.0, 1.0, 1.0, 1.0]
    history_length: 3
  last_action:
    params: {}
    clip: null
    scale: [1.0, 1.0, 1.0, 1.0]
    history_length: 3
"""

RL_SAR = """\
# Copyright of whom it may concern
quad/fast:
  model_name: "policy.onnx"
  num_observations: 17
  observations: ["ang_vel", "gravity_vec", "commands", "dof_pos", "actions"]
  observations_history: [2, 1, 0]  # 0 is the latest observation
  observations_history_priority: "term"  # "time" or "term" priority
  clip_obs: 100.0
  clip_actions_lower: [-100, -100,
                       -100, -100]
  clip_actions_upper: [100, 100, 100, 100]
  rl_kp: [20, 20, 20, 40]
  rl_kd: [0.5, 0.5, 0.5, 1]
  num_of_dofs: 4
  action_scale: [0.25, 0.25, 0.25, 0.5]
  ang_vel_scale: 0.25
  dof_pos_scale: 1.0
  commands_scale: [2.0, 2.0, 0.25]
  default_dof_pos: [0.1, -0.1, 0.1, -0.1]
  joint_mapping: [3, 0, 1, 2]
"""
BASE = """\
quad:
  dt: 0.005
  decimation: 4
  joint_names: ["FR_hip", "FL_hip", "RR_hip", "RL_hip"]
"""

MICRODUCK = """\
{
  "schema_version": 2, "model_api": 1, "obs_len": 51, "action_len": 4,
  "robot": {"model": "microduck", "hw_rev": 1, "servos": "xl330", "control_hz": 50},
  "name": "polite-bow", "kind": "episodic", "duration_s": 4.0, "action_scale": 0.25,
  "command": {"encoding": "constant", "idle": [0, 0, 0]}
}
"""

MJLAB = {
    "run_path": "run",
    "joint_names": ",".join(JOINTS),
    "joint_stiffness": "20.000,20.000,20.000,40.000",
    "joint_damping": "0.500,0.500,0.500,1.000",
    "default_joint_pos": "0.100,-0.100,0.100,-0.100",
    "command_names": "twist",
    "observation_names": "base_ang_vel,projected_gravity,command,joint_pos,actions",
    "observation_terms_scale": "0.250,1.000,2.000;2.000;0.250,1.000,1.000",
    "observation_terms_flatten_history_dim": "True,True,True,True,True",
    "observation_terms_history_length": "3,3,3,3,3",
    "observation_terms_clip": ",".join(["-inf;inf"] * 5),
    "action_scale": "0.250,0.250,0.250,0.500",
}


def graph(texts: dict[str, str]) -> bytes:
    """An ONNX file with metadata."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("obs", "actions")]
    node = helper.make_node("Identity", ["obs"], ["actions"])
    model = helper.make_model(helper.make_graph([node], "policy", ends[:1], ends[1:]))
    helper.set_model_props(model, texts)
    return bytes(model.SerializeToString())


def write(tool: str, folder: Path) -> Path:
    """Write a tool's file into a folder."""
    names = {
        "isaaclab": ("IO_descriptors.yaml", ISAACLAB.encode()),
        "unitree": ("deploy.yaml", UNITREE.encode()),
        "rl_sar": ("config.yaml", RL_SAR.encode()),
        "microduck": ("manifest.json", MICRODUCK.encode()),
        "mjlab": ("policy.onnx", graph(MJLAB)),
    }
    name, data = names[tool]
    if tool == "rl_sar":
        (folder / "base.yaml").write_text(BASE)
    (folder / name).write_bytes(data)
    return folder / name
