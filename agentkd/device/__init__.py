"""The gate of a device: how an executor comes onto it, is tried, and stays or goes."""

from agentkd.device.device import Device
from agentkd.device.state import Candidate, Held, Outcome, State, Tally
from agentkd.device.trial import Trial, TrialOptions

__all__ = ["Candidate", "Device", "Held", "Outcome", "State", "Tally", "Trial", "TrialOptions"]
