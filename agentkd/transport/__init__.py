"""How messages travel between a fleet's server and its devices: in memory, or over MQTT."""

from agentkd.transport.transport import Message, Received, Transport, Will

__all__ = ["Message", "Received", "Transport", "Will"]
