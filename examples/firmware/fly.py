"""A microcontroller flies the lunar lander: the executor on an emulated Cortex-M.

It is built into a complete program, which decides for observations that come over a serial line.
The same executor decides on the host, and each pair is compared:

    python -m examples.firmware.fly runs/demo/executor.akd --machine m4f --form int8
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from agentkd import dists, environments, read_bundle
from agentkd.deploy.akx import to_akx
from agentkd.deploy.bundle import Bundle
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.errors import AgentkdError
from agentkd.executors.executor import one_action
from agentkd.spec import BoxSpec, Spec, flatten_one
from agentkd.types import Floats, Policy, RecurrentPolicy
from examples.firmware.board import FORMS, HERE, MACHINES, Board, build, emulate, missing
from examples.firmware.link import Device, DeviceError, Line, RefusedError, frame

_CLOSE = 1e-5
_SECONDS = 3600


@dataclass(slots=True)
class Flight:
    """An episode that the device flew.

    Attributes:
        device: Its return.
        host: The return of the host's executor alone, on the same seed.
        steps: How many decisions.
        equal: How many of them the host took alike.
        ticks: Of the device's clock that the decisions took.
    """

    device: float = 0.0
    host: float = 0.0
    steps: int = 0
    equal: int = 0
    ticks: int = 0


@final
class Host:
    """The same executor on this machine, which remembers if it has a memory."""

    def __init__(self, policy: Policy | RecurrentPolicy, spec: Spec) -> None:
        """Take an executor."""
        self._policy: Any = policy
        self._spec = spec
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        remembers = isinstance(self._policy, RecurrentPolicy)
        self._state = self._policy.initial_state(1) if remembers else None

    def act(self, obs: Floats) -> Any:
        """Decide for a flat observation, (obs,)."""
        if self._state is None:
            dist = self._policy(obs[None])
        else:
            dist, self._state = self._policy(obs[None], self._state)
        return one_action(dists.mode(dist, self._spec.action), self._spec)


def fly(bundle: Bundle, device: Device, host: Host, env: str, seed: int) -> Flight:
    """Fly an episode by device and then by host; compare each decision of the first."""
    flight = Flight()
    device.reset()
    host.reset()

    def decide(obs: Floats) -> Any:
        answer = device.act(obs)
        if answer.status != "decided":
            raise DeviceError(f"Step {flight.steps}: the device says {answer.status}.")
        flight.steps += 1
        flight.ticks += answer.ticks
        flight.equal += same(answer.action, host.act(obs))
        return answer.action

    flight.device = episode(bundle, env, seed, decide)
    host.reset()
    flight.host = episode(bundle, env, seed, host.act)
    return flight


def episode(bundle: Bundle, env: str, seed: int, decide: Callable[..., Any]) -> float:
    """Live an episode; give its return."""
    spec = bundle.executor.spec
    made = environments.make(env)
    try:
        obs, _ = made.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = decide(flatten_one(spec.obs, obs))
            shape = getattr(made.action_space, "shape", ())
            taken = np.reshape(action, shape) if shape else int(np.ravel(action)[0])
            obs, reward, ended, cut, _ = made.step(taken)
            total, over = total + float(reward), ended or cut
        return total
    finally:
        made.close()


def same(device: Any, host: Any) -> bool:
    """Whether two actions are equal; numbers may differ in the last bits."""
    theirs = np.ravel(np.asarray(host))
    if device.dtype == np.float32:
        return bool(np.all(np.abs(device - theirs) <= _CLOSE * (1 + np.abs(theirs))))
    return bool(np.array_equal(device, theirs))


def faults(board: Board, bundle: Bundle, floats: bool) -> None:
    """Do to the device what happens to devices, and say what comes of it."""
    line = Line(board.line)
    device = Device(line, floats=floats)
    obs = bundle.golden["obs"][0]

    def again() -> list[Any]:
        device.reset()
        return list(device.act(obs).action.tolist())

    good = again()
    answer = device.act(np.full_like(obs, np.nan))
    print(f"NaN in the observation: {answer.status}, action {answer.action.tolist()}")
    line.send(frame("o", 1, obs.tobytes())[:-8])
    print(f"half a frame: lost; the next one gives {again()}")
    line.send(b"\x55\xaa" * 4000 + b"\0")
    print(f"noise: refused; the next frame gives {again()}")
    for kind, payload in (("o", obs.tobytes()[:-4]), ("?", b"")):
        try:
            device.ask(kind, payload)
        except RefusedError as error:
            print(f"a frame that is invalid: {error}")
    if again() != good:
        raise DeviceError("The device decides otherwise than before.")
    board.freeze()
    try:
        Device(line, floats=floats, patience=0.2, tries=5).act(obs)
    except DeviceError as error:
        print(f"a clock that stands still: {error}")


def run(options: argparse.Namespace) -> int:
    """Build, start, fly, compare."""
    absent = missing()
    if absent:
        raise DeviceError(f"Missing on the PATH: {', '.join(absent)}. See README.md.")
    bundle = read_bundle(options.executor)
    executor = bundle.executor
    env = options.env or bundle.manifest.get("provenance", {}).get("env")
    if not env:
        raise DeviceError(f"{options.executor} names no environment: give --env.")
    # The model's own checksum where it is data, the file's digest where it is code.
    data = to_akx(executor) if options.form == "akx" else b""
    known = zlib.crc32(data[16:]) if data else int(bundle.digest[:8], 16)
    folder = options.build or HERE / "build" / f"{options.machine}-{options.form}"
    built = build(options.executor, options.machine, options.form, folder, known, executor.version)
    print(built.takes)
    policy: Any = integer_form(bundle) if options.form == "int8" else executor
    host = Host(getattr(policy, "policy", policy), executor.spec)
    floats = isinstance(executor.spec.action, BoxSpec)
    with emulate(built, options.machine, _SECONDS) as board:
        device = Device(Line(board.line, options.damage), floats=floats)
        said = device.hello()
        if (said.id, said.obs) != (known, executor.spec.obs.size):
            raise DeviceError(f"The device runs another executor: {said}.")
        flights = []
        print(f"{'seed':>6}{'device':>10}{'host':>10}{'equal':>8} of steps")
        for seed in range(options.seed, options.seed + options.episodes):
            flight = fly(bundle, device, host, env, seed)
            flights.append(flight)
            print(
                f"{seed:>6}{flight.device:>10.2f}{flight.host:>10.2f}"
                f"{flight.equal:>8} of {flight.steps}",
                flush=True,
            )
        status = report(flights, said.hz, device.again)
        if options.faults:
            faults(board, bundle, floats)
    return status


def report(flights: list[Flight], hz: int, again: int) -> int:
    """Say what all episodes came to; 1 if device and host ever differed."""
    steps, equal = sum(f.steps for f in flights), sum(f.equal for f in flights)
    took = sum(f.ticks for f in flights) / max(1, steps)
    print(f"{equal:,} of {steps:,} actions equal; {again} frames sent again")
    # The emulator does an instruction in a nanosecond of its own time.
    print(f"a decision takes {took * 1e9 / hz:,.0f} instructions")
    return int(equal != steps)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "executor",
        type=Path,
        nargs="?",
        default=Path("runs/demo/executor.akd"),
        help="the executor file; `make demo` leaves one at the default place",
    )
    parser.add_argument("--machine", choices=sorted(MACHINES), default="m4f")
    parser.add_argument("--form", choices=FORMS, default="float")
    parser.add_argument("--env", help="by default the one it was distilled in")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode")
    parser.add_argument(
        "--damage", type=float, default=0.0, help="the share of bytes that are changed"
    )
    parser.add_argument("--faults", action="store_true", help="afterwards, break things and see")
    parser.add_argument("--build", type=Path, help="the folder to build in")
    try:
        return run(parser.parse_args())
    except (AgentkdError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
