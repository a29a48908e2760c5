"""Contracts of other tools: YAML, JSON, and the metadata of an ONNX graph."""

from __future__ import annotations

import json
import math
from pathlib import Path

from agentkd.deploy.contracts.compare import compare
from agentkd.deploy.contracts.files import read_contract
from agentkd.deploy.contracts.told import Told, named
from tests import contract_files
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_TEXTS = {
    "IO_descriptors.yaml": contract_files.ISAACLAB,
    "deploy.yaml": contract_files.UNITREE,
    "config.yaml": contract_files.RL_SAR,
}


def build(draw: Draw) -> Files:
    """Make a file of one of the tools."""
    kind = draw.below(5)
    if kind == 0:
        texts = dict(contract_files.MJLAB)
        for _ in range(1 + draw.below(3)):
            key = draw.choice(tuple(texts))
            texts[key] = mutate.text(draw, texts[key])
        whole = {k: v.encode("utf-8", "replace").decode() for k, v in texts.items()}
        return {"it": contract_files.graph(whole)}
    if kind == 1:
        return {"it": mutate.document(draw, json.loads(contract_files.MICRODUCK))}
    text = draw.choice(tuple(_TEXTS.values()))
    if draw.chance(2):
        lines = text.splitlines(keepends=True)
        for _ in range(1 + draw.below(3)):
            at = draw.below(len(lines))
            lines[at] = mutate.text(draw, lines[at])
        return {"it": "".join(lines).encode("utf-8", "surrogatepass")}
    return {"it": mutate.octets(draw, text.encode())}


def read(folder: Path) -> Told:
    """Read the contract."""
    return read_contract(folder / "it")


def work(found: Told) -> None:
    """Compare it with itself and with another: all that is told is equal, and has text."""
    contract = found.contract
    assert contract.period is None or 0 < contract.period < math.inf
    for each in compare(found, found):
        assert each.status == "agrees", each
    for each in compare(found, Told(contract_files.CONTRACT, 51, 4)):
        assert each.here or each.there
    names, units = named(contract)
    assert len(units) in (0, len(names))


TARGET = Target("contracts", build, read, work)
