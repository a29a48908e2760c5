"""Processors that a generated executor is run on: emulated ones, and this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from agentkd.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Core:
    """A processor, and how programs get onto it.

    Attributes:
        name: As it is called on the command line.
        label: As it is called in a table.
        prefix: Before gcc, size: the toolchain.
        flags: For the compiler.
        emulator: The program that runs it and its options; () for this machine.
        port: The file in targets/ that knows the machine.
        rom: Where code lies, and how much of it fits; (0, 0) under a system.
        ram: Where data lie, likewise.
        round: Instructions in a round of `akd_spin`; 0 where nothing is counted.
        packages: The Debian packages that bring all this.
    """

    name: str
    label: str
    prefix: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    port: str
    rom: tuple[int, int] = (0, 0)
    ram: tuple[int, int] = (0, 0)
    round: int = 0
    packages: tuple[str, ...] = ()

    def missing(self) -> tuple[str, ...]:
        """Programs that it needs and that are not on the PATH."""
        wanted = [f"{self.prefix}gcc", f"{self.prefix}size", *self.emulator[:1]]
        return tuple(each for each in wanted if shutil.which(each) is None)


def _cortex(
    name: str, label: str, machine: str, *flags: str, code: int = 0, ram: int = 0x20000000
) -> Core:
    small = machine == "microbit"
    return Core(
        name=name,
        label=label,
        prefix="arm-none-eabi-",
        flags=("-mthumb", *flags),
        emulator=(
            *("qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none"),
            *("-serial", "none", "-icount", "shift=0", "-chardev", "stdio,id=said"),
            *("-semihosting-config", "enable=on,target=native,chardev=said", "-kernel"),
        ),
        port="cortex_m.c",
        rom=(code, 256 << 10 if small else 2 << 20),
        ram=(ram, 16 << 10 if small else 1 << 20),
        round=2,
        packages=("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"),
    )


def _riscv(bits: int, arch: str, abi: str) -> Core:
    return Core(
        name=f"rv{bits}",
        label=arch.upper(),
        prefix="riscv64-unknown-elf-",
        flags=(*(f"-march={arch}", f"-mabi={abi}", "-mcmodel=medany"), "--specs=picolibc.specs"),
        emulator=(
            *(f"qemu-system-riscv{bits}", "-M", "virt", "-bios", "none"),
            *("-display", "none"),
            *("-monitor", "none", "-serial", "stdio", "-icount", "shift=0", "-kernel"),
        ),
        port="riscv.c",
        rom=(0x80000000, 4 << 20),
        ram=(0x80400000, 4 << 20),
        round=3,
        packages=("gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf", "qemu-system-misc"),
    )


CORES: Mapping[str, Core] = {
    core.name: core
    for core in (
        _cortex("m0", "Cortex-M0", "microbit", "-mcpu=cortex-m0", "-mfloat-abi=soft"),
        _cortex("m3", "Cortex-M3", "mps2-an385", "-mcpu=cortex-m3", "-mfloat-abi=soft"),
        _cortex(
            *("m4f", "Cortex-M4F", "mps2-an386", "-mcpu=cortex-m4"),
            *("-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
        ),
        _cortex(
            *("m7", "Cortex-M7", "mps2-an500", "-mcpu=cortex-m7"),
            *("-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
        ),
        # Its vectors and its memory are at the secure addresses.
        _cortex(
            *("m33", "Cortex-M33", "mps2-an505", "-mcpu=cortex-m33"),
            *("-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            code=0x10000000,
            ram=0x38000000,
        ),
        _riscv(32, "rv32imac", "ilp32"),
        _riscv(64, "rv64imafdc", "lp64d"),
        Core(
            name="aarch64",
            label="AArch64",
            prefix="aarch64-linux-gnu-",
            flags=("-static",),
            emulator=("qemu-aarch64",),
            port="hosted.c",
            packages=("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"),
        ),
        Core(
            name="host",
            label="this machine",
            prefix="",
            flags=(),
            emulator=(),
            port="hosted.c",
            packages=("gcc", "libc6-dev"),
        ),
    )
}


def core(name: str) -> Core:
    """Look a core up.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in CORES:
        raise ConfigError(f"No core {name!r}.{did_you_mean(name, CORES)}")
    return CORES[name]
