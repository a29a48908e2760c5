"""What two contracts alone tell, and what a swap is held to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkd.deploy.contract import ObsTerm
from agentkd.deploy.contracts.compare import compare
from agentkd.deploy.contracts.files import fitted, read_contract
from agentkd.deploy.contracts.told import UNCLIPPED, Told
from agentkd.deploy.fit import check_contract
from agentkd.errors import SpecError
from tests.contract_files import CONTRACT, ISAACLAB, SPEC, TERMS, write
from tests.test_contracts import shorter, swapped


@pytest.mark.parametrize(
    ("here", "there", "status"),
    [
        ({"clip": (-1.0, 1.0)}, {"clip": UNCLIPPED}, "differs"),
        ({"clip": (-1.0, 1.0)}, {"clip": None}, "untold"),
        ({"clip": None}, {"clip": (-1.0, 1.0)}, "untold"),
        ({"clip": (-3.14159, 3.14159)}, {"clip": (-3.142, 3.142)}, ""),
        ({"scale": (0.25,)}, {"scale": ()}, "untold"),
        ({"scale": (0.25,)}, {"scale": (0.5, 0.25, 0.25), "size": None}, "differs"),
        ({"scale": (0.25,)}, {"scale": (0.25,) * 3}, ""),
    ],
)
def test_what_one_side_alone_tells_of_a_term_is_said(here: Any, there: Any, status: str) -> None:
    """No clip is told; a term without one may have any. Clips are rounded, too."""
    sides = [
        Told(replace(CONTRACT, terms=(replace(TERMS[0], **each), *TERMS[1:])), 51, 4)
        for each in (here, there)
    ]
    name = f"{next(iter(here))} of base_ang_vel"
    assert [each.status for each in compare(*sides) if each.name.startswith(name)] == [status][
        : len(status)
    ]


def test_terms_that_a_simulator_leaves_out_are_no_mismatch() -> None:
    """Those that it has are compared; another order is one."""
    scan = replace(CONTRACT, terms=(TERMS[0], ObsTerm("height_scan", 9), *TERMS[1:]))
    for its, wrong in (
        (CONTRACT, []),
        (replace(CONTRACT, terms=swapped(TERMS)), ["observation order"]),
        (replace(CONTRACT, terms=shorter(TERMS)), ["history length of base_ang_vel"]),
    ):
        found = compare(Told(scan, 60, 4), Told(its, its.described, 4, more=True))
        assert [each.name for each in found if each.status == "differs"] == wrong


def test_a_swap_compares_terms_and_not_the_names_made_from_them(tmp_path: Path) -> None:
    """Two tools that say the same of a robot name its numbers otherwise."""
    sides = [fitted(read_contract(write(t, tmp_path)), SPEC)[0] for t in ("isaaclab", "unitree")]
    assert sides[0].obs_names != sides[1].obs_names
    check_contract(*sides)
    check_contract(*sides[::-1])
    # Names that the user gave count.
    mine = tuple(f"{'n' * 50} {each}" for each in range(51))
    with pytest.raises(SpecError, match=r"obs_names, number 0") as found:
        check_contract(replace(sides[0], obs_names=mine), sides[1])
    assert len(str(found.value)) < 250


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("units: rad/s", "units: deg/s"), "unit of base_ang_vel is deg/s"),
        (("      - X\n      - Y\n", "      - Y\n      - X\n"), "parts of base_ang_vel is Y, X, Z"),
    ],
)
def test_parts_and_units_of_terms_are_compared(
    change: tuple[str, str], words: str, tmp_path: Path
) -> None:
    """The same numbers in another order, or in other units, are another robot's."""
    here, _ = fitted(read_contract(write("isaaclab", tmp_path)), SPEC)
    (tmp_path / "other.yaml").write_text(ISAACLAB.replace(*change))
    there, _ = fitted(read_contract(tmp_path / "other.yaml"), SPEC)
    with pytest.raises(SpecError, match=words):
        check_contract(here, there)
