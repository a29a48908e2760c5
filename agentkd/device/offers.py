"""What a repository offers, before anything large of it is downloaded."""

from __future__ import annotations

from agentkd.signing.fetching import reader
from agentkd.signing.store import TrustStore


def offered(trust: TrustStore, address: str, name: str) -> tuple[str, int]:
    """Return SHA-256 and serial of what is signed under a name, "" and 0 for nothing."""
    with trust._refreshed(reader(address), address) as (targets, signed):
        target = targets.get(name)
        if target is None:
            return "", 0
        return str(target.hashes.get("sha256", "")), signed(name, target).serial
