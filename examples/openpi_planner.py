"""A served planner that asks an openpi server: its chunks of actions become strategies.

Run it where openpi-client is installed; robots ask it by ws://HOST:4750, as any served planner:

    pip install openpi-client typing_extensions "agentkd[cli,remote]" gymnasium
    OPENPI=10.0.0.7:8000 OPENPI_PROMPT="fold the towel" \
        agentkd serve openpi_planner:planner --env my_robot:Robot

The robot's observation is a dictionary with openpi's keys (observation/state, observation/image,
…), or one array, which is the state. Tried with openpi-client 0.1.2 and a stand-in for the server.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, final

import numpy as np

from agentkd.errors import ConfigError
from agentkd.spec import ObsSpec, Spec, unflatten
from agentkd.types import Floats


@final
class Chunks:
    """Asks a policy of openpi's (`infer`) row by row; each answer is a chunk of actions."""

    def __init__(self, policy: Any, spec: ObsSpec, prompt: str) -> None:
        """Ask once, which compiles the policy and tells how long its chunks are."""
        self._policy, self._spec, self._prompt = policy, spec, prompt
        self.horizon = 1
        self.horizon = len(self(np.zeros((1, spec.size), np.float32)))

    def __call__(self, obs: Floats) -> Floats:
        """Return `horizon` rows of actions for each of the observations (batch, size)."""
        rows = [self._policy.infer(self._observed(row[None]))["actions"] for row in obs]
        return np.concatenate([np.asarray(each, np.float32) for each in rows])

    def _observed(self, row: Floats) -> dict[str, Any]:
        found = unflatten(self._spec, row)
        parts = found if isinstance(found, dict) else {"observation/state": found}
        return {**{name: each[0] for name, each in parts.items()}, "prompt": self._prompt}


def planner(spec: Spec) -> Chunks:
    """Connect to the server that OPENPI names, as HOST:PORT."""
    address = os.environ.get("OPENPI", "")
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise ConfigError(f"OPENPI is {address!r}: set it to the server's HOST:PORT.")
    client = import_module("openpi_client.websocket_client_policy")
    policy = client.WebsocketClientPolicy(host=host, port=int(port))
    return Chunks(policy, spec.obs, os.environ.get("OPENPI_PROMPT", ""))
