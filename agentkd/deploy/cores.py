"""Processors that a generated executor is run on, and what an instruction on them costs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from agentkd.errors import check_choice


@dataclass(frozen=True, slots=True)
class Core:
    """A processor, emulated or this machine, and how programs get onto it."""

    name: str
    label: str
    """As it is called in a table."""
    prefix: str
    """Before gcc, size: the toolchain."""
    flags: tuple[str, ...]
    """For the compiler."""
    emulator: tuple[str, ...]
    """The program that runs it and its options; () for this machine."""
    port: str
    """The file in targets/ that knows the machine."""
    packages: tuple[str, ...]
    """The Debian packages that bring all this."""
    rom: tuple[int, int] = (0, 0)
    """Where code lies, and how much of it fits; (0, 0) under a system."""
    ram: tuple[int, int] = (0, 0)
    """Where data lie, likewise."""
    round: int = 0
    """Instructions in a round of `akd_spin`; 0 where nothing is counted."""

    def missing(self) -> tuple[str, ...]:
        """Programs that it needs and that are not on the PATH."""
        wanted = [f"{self.prefix}gcc", f"{self.prefix}size", *self.emulator[:1]]
        return tuple(each for each in wanted if shutil.which(each) is None)


def _cortex(
    name: str, label: str, machine: str, flags: str, code: int = 0, ram: int = 0x20000000
) -> Core:
    small = machine == "microbit"
    emulator = (
        f"qemu-system-arm -M {machine} -display none -monitor none -serial none -icount shift=0 "
        "-chardev stdio,id=said -semihosting-config enable=on,target=native,chardev=said -kernel"
    )
    return Core(
        name=name,
        label=label,
        prefix="arm-none-eabi-",
        flags=("-mthumb", *flags.split()),
        emulator=tuple(emulator.split()),
        port="cortex_m.c",
        packages=("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"),
        rom=(code, 256 << 10 if small else 2 << 20),
        ram=(ram, 16 << 10 if small else 1 << 20),
        round=2,
    )


def _riscv(bits: int, arch: str, abi: str) -> Core:
    emulator = (
        f"qemu-system-riscv{bits} -M virt -bios none -display none -monitor none -serial stdio "
        "-icount shift=0 -kernel"
    )
    return Core(
        name=f"rv{bits}",
        label=arch.upper(),
        prefix="riscv64-unknown-elf-",
        flags=(f"-march={arch}", f"-mabi={abi}", "-mcmodel=medany", "--specs=picolibc.specs"),
        emulator=tuple(emulator.split()),
        port="riscv.c",
        packages=("gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf", "qemu-system-misc"),
        rom=(0x80000000, 4 << 20),
        ram=(0x80400000, 4 << 20),
        round=3,
    )


def _hosted(name: str, label: str, prefix: str, *emulator: str, packages: str) -> Core:
    return Core(
        name=name,
        label=label,
        prefix=prefix,
        flags=("-static",) if emulator else (),
        emulator=emulator,
        port="hosted.c",
        packages=tuple(packages.split()),
    )


_SOFT = " -mfloat-abi=soft"
_FPU4, _FPU5 = (f" -mfpu=fpv{each}-sp-d16 -mfloat-abi=hard" for each in (4, 5))
_AARCH64 = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
CORES: Mapping[str, Core] = {
    core.name: core
    for core in (
        _cortex("m0", "Cortex-M0", "microbit", "-mcpu=cortex-m0" + _SOFT),
        _cortex("m3", "Cortex-M3", "mps2-an385", "-mcpu=cortex-m3" + _SOFT),
        _cortex("m4f", "Cortex-M4F", "mps2-an386", "-mcpu=cortex-m4" + _FPU4),
        _cortex("m7", "Cortex-M7", "mps2-an500", "-mcpu=cortex-m7" + _FPU5),
        # Its vectors and its memory are at the secure addresses.
        _cortex(
            "m33",
            "Cortex-M33",
            "mps2-an505",
            "-mcpu=cortex-m33" + _FPU5,
            code=0x10000000,
            ram=0x38000000,
        ),
        _riscv(32, "rv32imac", "ilp32"),
        _riscv(64, "rv64imafdc", "lp64d"),
        _hosted("aarch64", "AArch64", "aarch64-linux-gnu-", "qemu-aarch64", packages=_AARCH64),
        _hosted("host", "this machine", "", packages="gcc libc6-dev"),
    )
}


def core(name: str) -> Core:
    """Look a core up.

    Raises:
        ConfigError: If there is none of this name.
    """
    check_choice("core", name, CORES)
    return CORES[name]


@dataclass(frozen=True, slots=True)
class Power:
    """A part with a core, and what it draws: an estimate from its maker's figure.

    Energy = instructions × cycles an instruction × current per MHz × voltage. The current is the
    one on a data sheet's first page, measured with other code than ours, without peripherals, at
    one clock and temperature. The cycles are assumed: emulators count instructions. It tells milli-
    from microjoules, and one core from another roughly.
    """

    part: str
    current: float
    """While it runs from flash, µA for each MHz."""
    volts: float
    cycles: float
    """Assumed for an instruction of these networks, flash without waiting."""
    source: str
    """Where the current is from."""

    @property
    def nanojoules(self) -> float:
        """Energy of an instruction, nJ."""
        return self.cycles * self.current * self.volts / 1000


POWER: Mapping[str, Power] = {
    "m0": Power("nRF51822", 275, 3.0, 1.5, "Nordic PS v3: 4.4 mA at 16 MHz"),
    "m3": Power("STM32L151", 214, 3.0, 1.4, "ST DocID17659: 214 µA/MHz"),
    # Its loads of floats take two cycles, fused products three (Cortex-M4 manual).
    "m4f": Power("STM32L476", 100, 3.0, 1.8, "ST DS10198: 100 µA/MHz"),
    # Two instructions a cycle where they do not wait for each other.
    "m7": Power("STM32H743", 275, 3.3, 0.9, "ST DS12110: 275 µA/MHz"),
    "m33": Power("STM32L552", 62, 3.0, 1.5, "ST DS12737: 62 µA/MHz with its SMPS"),
    "rv32": Power("ESP32-C3", 168, 3.3, 1.3, "26.8 mA at 160 MHz, robdobson.com"),
}
"""By the name of the core; of the others nothing is known."""
