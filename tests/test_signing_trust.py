"""Signed executor files: what loads and acts under trust, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.deploy.bundle import Bundle, from_bytes, read_bundle, write_bundle
from agentkd.errors import BundleError, SignatureError
from agentkd.executors.architecture import initial
from agentkd.runtime import InlineDistiller
from agentkd.signing.proof import proof_path
from agentkd.signing.store import TrustStore
from tests.runtime_children import SPEC, Echo, Towards, constant
from tests.signing import Signer

pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """A repository with nothing in it."""
    return Signer(tmp_path)


def test_an_anchor_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The error says which file is meant."""
    with pytest.raises(SignatureError, match=r"metadata/1\.root\.json"):
        TrustStore(tmp_path / "root.json")


def test_what_is_not_signed_is_not_loaded(signer: Signer, tmp_path: Path) -> None:
    """With trust; the command line, the library and the agent alike."""
    file = tmp_path / "e.akd"
    write_bundle(file, constant(1))
    assert read_bundle(file).signed is None
    for refused in (
        lambda: agentkd.load(file, trust=signer.root),
        lambda: read_bundle(file, trust=signer.root),
        lambda: agentkd.Agent(file, trust=signer.root),
        lambda: agentkd.Agent(agentkd.load(file), trust=signer.root),
    ):
        with pytest.raises(BundleError) as caught:
            refused()
        assert caught.value.reason == "signature"
    signer.sign(file)
    found = read_bundle(file, trust=signer.root)
    assert found.signed is not None
    assert found.signed.name == "e.akd"
    agent = agentkd.Agent(file, trust=signer.root)
    agentkd.Agent(agentkd.load(file, trust=signer.root), trust=signer.root)
    other = tmp_path / "other.akd"
    write_bundle(other, constant(2))
    with pytest.raises(BundleError, match="unsigned"):
        agent.swap(other)
    # Another file's proof proves nothing.
    proof_path(other).write_bytes(proof_path(file).read_bytes())
    with pytest.raises(BundleError, match="not the file that was signed"):
        agent.swap(other)
    signer.sign(other)
    agent.swap(other)
    assert agent.act([0, 0, 0]) == 2


def test_an_executor_keeps_what_is_known_of_its_signature(signer: Signer, tmp_path: Path) -> None:
    """However it was read. What the program made itself is its own, and acts with trust too."""
    file, other = tmp_path / "e.akd", tmp_path / "other.akd"
    write_bundle(file, constant(1))
    signer.sign(file)
    write_bundle(other, constant(2))
    signed, unsigned = read_bundle(file, trust=signer.root), read_bundle(other)
    raw = from_bytes(other.read_bytes()).executor
    changed = replace(signed.executor, layers=unsigned.executor.layers)
    agent = agentkd.Agent(signed.executor, trust=signer.root)
    refused: Any
    for refused in (unsigned, unsigned.executor, raw, changed, replace(unsigned.executor, clip=9)):
        with pytest.raises(BundleError, match="counts as unsigned") as caught:
            agent.swap(refused)
        assert caught.value.reason == "signature"
        if not isinstance(refused, Bundle):
            with pytest.raises(BundleError, match="counts as unsigned"):
                agentkd.Agent(refused, trust=signer.root)
    assert agent.act([0, 0, 0]) == 1
    agent.swap(constant(2))
    assert agent.act([0, 0, 0]) == 2
    taken: Any
    for taken in (signed, copy.copy(signed.executor)):
        agent.swap(taken)
        assert agent.act([0, 0, 0]) == 1


def test_what_an_agent_has_learnt_acts_with_trust(signer: Signer, tmp_path: Path) -> None:
    """From its own distiller, and again by a rollback or as it was."""
    file = tmp_path / "e.akd"
    write_bundle(file, constant(1))
    signer.sign(file)
    port = InlineDistiller(Towards(), swap_every=1)
    with agentkd.Agent(
        file, trust=signer.root, planner=Echo(), planner_latency=0, distiller=port
    ) as agent:
        for _ in range(4):
            agent.act([3, 0, 0])
        learnt = agent.executor
        assert learnt.version > 0
        agent.rollback()
        agent.swap(learnt)
        assert agent.executor is learnt
        assert not agent.metrics()["swaps_refused_total"]


def test_a_file_that_was_checked_is_not_read_again(signer: Signer, tmp_path: Path) -> None:
    """A distiller learns from what the signature was checked of, whatever lies there by then."""
    file = tmp_path / "e.akd"
    write_bundle(file, constant(1))
    signer.sign(file)
    agent = agentkd.Agent(
        file, trust=signer.root, learn=True, planner="tests.runtime_children:Echo"
    )
    distiller = agent._wanted[3]
    assert isinstance(distiller, agentkd.Process)
    learnt_from = Path(str(distiller.arguments["executor"]))
    assert learnt_from != file
    assert read_bundle(learnt_from).executor.act([0, 0, 0]) == 1


def test_a_followed_file_is_followed_when_its_proof_has_come(
    signer: Signer, tmp_path: Path
) -> None:
    """The order in which the two are copied does not matter."""
    from agentkd.runtime.watched import Watched

    file, other = tmp_path / "e.akd", tmp_path / "other.akd"
    write_bundle(file, constant(1))
    signer.sign(file)
    watched = Watched(file, read_bundle(file).digest, signer.root)
    write_bundle(other, initial("mlp:4", SPEC))
    signer.sign(other)
    other.replace(file)
    assert watched.changed() is None
    with pytest.raises(BundleError, match="not the file that was signed"):
        watched.changed()
    proof_path(other).replace(proof_path(file))
    found = watched.changed()
    assert found is not None
    assert found.signed is not None
