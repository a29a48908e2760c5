"""Optional packages, and the extra of agentkd that brings each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agentkd.errors import ConfigError

EXTRAS = {
    "aiomqtt": "mqtt",
    "cryptography": "fleet",
    "flwr": "federated",
    "gymnasium": "train",
    "h5py": "minari",
    "huggingface_hub": "hub",
    "onnx": "export",
    "onnxruntime": "export",
    "paho": "mqtt",
    "prometheus_client": "metrics",
    "pyarrow": "bench",
    "ray": "ray",
    "rich": "cli",
    "sb3_contrib": "train",
    "scipy": "train",
    "securesystemslib": "fleet",
    "stable_baselines3": "train",
    "tensorboard": "train",
    "torch": "train",
    "tuf": "fleet",
    "tyro": "cli",
    "websockets": "remote",
}


def remedy(package: str) -> str:
    """Say which package is missing and how to install it; no full stop at the end."""
    return f'the package {package!r}: pip install "agentkd[{EXTRAS[package]}]"'


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Name the extra that brings what the block, `what` in the message, fails to import.

    Raises:
        ConfigError: If an optional package is missing. Any other `ImportError` passes.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise ConfigError(f"{what} needs {remedy(package)}.") from error
