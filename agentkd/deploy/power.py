"""What an instruction costs on a core: an estimate from its maker's figure.

Energy = instructions × cycles an instruction × current per MHz × voltage. The current is the one on
a data sheet's first page, measured with other code than ours, without peripherals, at one clock and
temperature. The cycles are assumed: emulators count instructions. It tells milli- from microjoules,
and one core from another roughly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Power:
    """A part with a core, and what it draws.

    Attributes:
        part: Its name.
        current: While it runs from flash, µA for each MHz.
        volts: Of its supply.
        cycles: Assumed for an instruction of these networks, flash without waiting.
        source: Where the current is from.
    """

    part: str
    current: float
    volts: float
    cycles: float
    source: str

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
