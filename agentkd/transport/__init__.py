"""How messages travel between a fleet's server and its devices: in memory, or over MQTT."""

from agentkd.transport.transport import Connect, Message, Received, Transport, Will

__all__ = ["Connect", "Message", "Received", "Transport", "Will"]
