"""A microcontroller gets another executor while it acts, and keeps it if it is good.

An emulated board with the gate (gate/gate.h) gets a first executor, then an update, in pieces
between observations:

    python -m examples.firmware.update first.akd second.akd --machine m4f --cut 300

With --cut the power is lost at an operation of the flash, and the board starts again.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from agentkd import read_bundle
from agentkd.deploy.akx import to_akx
from agentkd.deploy.bundle import Bundle
from agentkd.errors import AgentkdError
from agentkd.types import Floats
from examples.firmware.board import HERE, MACHINES, Built, build, emulate, missing
from examples.firmware.link import Device, DeviceError, Line
from examples.firmware.package import ALIGN, public_bytes, read_key, to_package

REASONS = (
    *("ok", "unsigned", "damaged", "golden", "unfit", "old", "blacklisted", "busy", "slow"),
    *("numbers", "disagrees", "crashes", "asked", "unwritten", "empty"),
)
STAGES = ("NONE", "STAGED", "TRIAL", "CONFIRMED", "REFUSED", "ROLLED_BACK")
PHASES = ("idle", "shadow", "acting")
_PIECE = 16 * ALIGN
_LEFT = 0x00FFFFF0
"""Where in the flash's file stands how many operations are left; as in flash.c."""
_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Status:
    """How a gate stands.

    Attributes:
        stage: Of what is on its way: "NONE", "STAGED" or "TRIAL".
        phase: Of a trial: "idle", "shadow" or "acting".
        last: How the last update ended.
        reason: Why.
        id: Of which executor: the checksum in its model.akx.
    """

    stage: str
    phase: str
    last: str
    reason: str
    id: int


def model_id(bundle: Bundle) -> int:
    """Return by what a device tells an executor."""
    return int(struct.unpack_from("<I", to_akx(bundle.executor), 12)[0])


def status(device: Device) -> Status:
    """Ask how the gate stands."""
    _, stage, phase, last, reason, which = struct.unpack("<6I", device.ask("s", b""))
    return Status(STAGES[stage], PHASES[phase], STAGES[last], REASONS[reason], which)


def pieces(device: Device, package: bytes) -> Iterator[str]:
    """Send a package; yield the reason that each answer gives, of which the last one counts."""
    said = _asked(device, "b", struct.pack("<I", len(package)))
    yield said
    for at in range(0, len(package), _PIECE):
        if said != "ok":
            return
        said = _asked(device, "p", struct.pack("<I", at) + package[at : at + _PIECE])
        yield said
    yield _asked(device, "v", b"")


def send(device: Device, package: bytes) -> str:
    """Send a package whole; return what the gate says of it."""
    return list(pieces(device, package))[-1]


def _asked(device: Device, kind: str, payload: bytes) -> str:
    return REASONS[struct.unpack_from("<I", device.ask(kind, payload))[0]]


@final
class Robot:
    """A board that acts all the time, and is started again after its power was lost.

    Attributes:
        device: The other end of its line.
        board: The emulator.
        starts: How often it was switched on.
        acts: Whether it has an executor.
    """

    def __init__(self, built: Built, machine: str, flash: Path, obs: Floats) -> None:
        """Take a program, the file that keeps its flash, and observations, (n, obs)."""
        self.starts, self.acts = 0, False
        self._built, self._machine, self._flash, self._obs = built, machine, flash, obs
        self._power = ExitStack()
        self._at = 0
        self._cut = False
        self.start()

    def start(self) -> None:
        """Switch it on, whatever it was doing before."""
        self._power.close()
        board = emulate(self._built, self._machine, _SECONDS, self._flash)
        self.board = self._power.enter_context(board)
        # What is decided is not looked at here.
        self.device = Device(Line(self.board.line), floats=False)
        self.starts += 1

    def close(self) -> None:
        """Switch it off."""
        self._power.close()

    def cut_after(self, operations: int) -> None:
        """Let the power be lost once, at an operation of the flash from now on; 0 for never."""
        self._cut = operations > 0
        with self._flash.open("r+b") as stream:
            stream.seek(_LEFT)
            stream.write(struct.pack("<I", operations))

    def _was_cut(self) -> bool:
        """Return whether that has happened since it was asked last."""
        with self._flash.open("rb") as stream:
            stream.seek(_LEFT)
            left = struct.unpack("<I", stream.read(4))[0]
        cut, self._cut = self._cut and left == 0, self._cut and left != 0
        return cut

    def act(self) -> None:
        """Let it decide for the next observation.

        Raises:
            DeviceError: If it decides nothing.
        """
        answer = self.device.act(self._obs[self._at % len(self._obs)])
        self._at += 1
        if answer.status != "decided":
            raise DeviceError(f"It decided nothing: {answer.status}.")

    def update(self, package: bytes, ticks: int = 2000) -> Status:
        """Send a package and let it act until that has ended, also if the power is lost.

        Raises:
            DeviceError: If it does not end.
        """
        sent = ""
        for _ in range(ticks):
            try:
                now = status(self.device)
                if now.stage != "NONE":
                    self.act()
                elif sent:
                    self.acts |= now.last == "CONFIRMED"
                    return now
                else:
                    for answer in pieces(self.device, package):
                        sent = answer
                        if self.acts:
                            self.act()
            except DeviceError:
                if not self._was_cut():
                    raise
                sent = ""
                self.start()
        raise DeviceError(f"The update has not ended after {ticks} ticks.")


def run(options: argparse.Namespace) -> int:
    """Build, start, bring the first executor, then update."""
    if absent := missing():
        raise DeviceError(f"Missing on the PATH: {', '.join(absent)}. See README.md.")
    first, second = (read_bundle(each) for each in (options.first, options.second))
    key = None if options.key is None else read_key(options.key)
    variables = [] if key is None else [f"GATE_KEY={public_bytes(key)}"]
    more = f"-DGATE_SHADOW_TICKS={options.ticks}u -DGATE_ACTING_TICKS={options.ticks}u"
    folder = options.build or HERE / "build" / f"{options.machine}-gate"
    built = build(
        options.first, options.machine, "gate", folder, variables=[*variables, f"MORE={more}"]
    )
    print(built.takes)
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name, ExitStack() as stack:
        robot = Robot(built, options.machine, Path(name) / "flash", first.golden["obs"])
        stack.callback(robot.close)
        for serial, bundle in enumerate((first, second), 1):
            if serial == 2:
                robot.cut_after(options.cut)
            ended = robot.update(to_package(bundle, serial, key), 4 * options.ticks + 100)
            print(f"{model_id(bundle):#010x}: {ended.last}, {ended.reason}, {robot.starts} starts")
    return int((ended.last, ended.id) != ("CONFIRMED", model_id(second)))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("first", type=Path, help="the executor that acts first")
    parser.add_argument("second", type=Path, help="the update")
    parser.add_argument("--machine", choices=sorted(MACHINES), default="m4f")
    parser.add_argument("--key", type=Path, help="an Ed25519 private key in PEM, to sign with")
    parser.add_argument("--ticks", type=int, default=100, help="of each half of a trial")
    parser.add_argument("--cut", type=int, default=0, help="the operation that loses the power")
    parser.add_argument("--build", type=Path, help="the folder to build in")
    try:
        return run(parser.parse_args())
    except (AgentkdError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
