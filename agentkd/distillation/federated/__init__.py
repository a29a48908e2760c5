"""Federated distillation: many devices, one executor, and observations that stay where they are."""

from agentkd.distillation.federated.client import Client, Clients, InMemory, open_client
from agentkd.distillation.federated.public import PublicStates
from agentkd.distillation.federated.rounds import Federated, Mode, Normaliser, Round, federate

__all__ = [
    "Client",
    "Clients",
    "Federated",
    "InMemory",
    "Mode",
    "Normaliser",
    "PublicStates",
    "Round",
    "federate",
    "open_client",
]
