"""Federated distillation: many devices, one executor, and observations that stay where they are."""

from agentkd.distillation.federated.client import Client, Clients, InMemory, open_client
from agentkd.distillation.federated.kept import Round
from agentkd.distillation.federated.member import Member
from agentkd.distillation.federated.public import PublicStates
from agentkd.distillation.federated.remote import Remote
from agentkd.distillation.federated.rounds import Federated, Mode, Normaliser, federate

__all__ = [
    "Client",
    "Clients",
    "Federated",
    "InMemory",
    "Member",
    "Mode",
    "Normaliser",
    "PublicStates",
    "Remote",
    "Round",
    "federate",
    "open_client",
]
