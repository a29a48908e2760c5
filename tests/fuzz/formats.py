"""Every target by name; each is imported only when it is run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from tests.fuzz.target import Target

TARGETS = {
    "architecture": "spec:ARCHITECTURE",
    "bench-rows": "bench:ROWS",
    "bench-suite": "bench:SUITE",
    "bundle": "bundle:TARGET",
    "checkpoint": "checkpoint:TARGET",
    "contracts": "contracts:TARGET",
    "dataset": "dataset:TARGET",
    "device": "device:STATE",
    "federated": "federated:TARGET",
    "federated-kept": "federated_line:KEPT",
    "federated-offer": "federated_line:OFFER",
    "fleet-answer": "fleet_ask:ANSWER",
    "fleet-ask": "fleet_ask:ASK",
    "fleet-desired": "fleet:DESIRED",
    "fleet-need": "fleet:NEED",
    "fleet-note": "fleet:NOTE",
    "fleet-report": "fleet:REPORT",
    "fleet-topic": "fleet:TOPIC",
    "fleet-trail": "fleet_trail:TARGET",
    "log": "log:LOG",
    "messages": "log:MESSAGES",
    "policy-checkpoint": "policies:CHECKPOINT",
    "policy-hdf5": "policies:HDF5",
    "policy-onnx": "policies:GRAPH",
    "policy-script": "policies:SCRIPT",
    "report": "report:TARGET",
    "sb3": "sb3:SAVE",
    "spec": "spec:SPEC",
    "statistics": "sb3:STATISTICS",
    "terms": "terms:TARGET",
    "wire-client": "wire:CLIENT",
    "wire-server": "wire:SERVER",
}
if find_spec("tuf") is not None:
    TARGETS["proof"] = "device:PROOF"


def target(name: str) -> Target:
    """Import a target."""
    module, _, attribute = TARGETS[name].partition(":")
    found: Target = getattr(import_module(f"tests.fuzz.targets.{module}"), attribute)
    return found
