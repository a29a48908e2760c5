"""`agentkd serve`: a planner for agents on other machines."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from agentkd.cli.options import Loading, access, reference
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError, check_range
from agentkd.interrupt import ctrl_c
from agentkd.planners.remote.wire import DEFAULT_PORT, TOKEN, read_token, token_of_environment

_TURN = 0.2


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Serve a planner for agents that ask for it by ws://HOST:PORT or wss://HOST:PORT.

    Wherever a planner is named, its address will do: agentkd run ENV --planner wss://10.0.0.7:4750.
    A lost connection makes the planner late and nothing else. Between machines a token and a
    certificate are needed, or a tunnel (ssh -L).
    """

    planner: tyro.conf.Positional[tuple[str, ...]]
    """An SB3 save or its folder, an .akd file, or module:attribute; several are an ensemble."""
    env: str | None = None
    """The environment that it is for; SB3 saves and .akd files know theirs."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    host: str = "127.0.0.1"
    """The address to listen at. Any but this machine's own needs a token and --cert."""
    port: int = DEFAULT_PORT
    """The port; 0 for one that is free, which is printed."""
    token_file: Path | None = None
    """A file that holds the token, or - for the first line of standard input. Else AGENTKD_TOKEN,
    or the file AGENTKD_TOKEN_FILE."""
    cert: Path | None = None
    """A file with the server's certificate, for TLS (wss://)."""
    key: Path | None = None
    """A file with the certificate's private key, if not in the same file."""
    connections: int = 8
    """How many agents may be connected; others try again until a place is free."""


def run(options: Options) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from agentkd.environments import look_at
    from agentkd.planners import load_planner
    from agentkd.planners.remote.server import PlannerServer

    check_range("--connections", options.connections, least=1)
    token = _token(options.token_file)
    spec = None if options.env is None else look_at(options.env)[0]
    known = load_planner(reference(options), spec, **access(options.saves))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # several would fight with what else runs here
    console = Console()
    where: Any = {name: getattr(options, name) for name in ("host", "port", "cert", "key")}
    most = options.connections
    with (
        ctrl_c() as ended,
        PlannerServer(known, token=token, most_connections=most, **where) as server,
    ):
        guard = "with a token" if token else f"without a token ({TOKEN} is not set)"
        console.print(
            f"{known.name} at {server.address} {guard}; Ctrl-C ends it.",
            highlight=False,
            soft_wrap=True,
        )
        sys.stdout.flush()
        while not ended():
            time.sleep(_TURN)
    counts = server.counts
    mean = 1000 * counts.thinking / counts.questions if counts.questions else 0.0
    console.print(
        f"{counts.questions:,} question{'s' * (counts.questions != 1)} of "
        f"{counts.connections:,} connections, {mean:.1f} ms each; "
        f"{counts.failed:,} failed, {counts.refused:,} connections refused.",
        highlight=False,
    )
    return 0


def _token(path: Path | None) -> str:
    if path is None:
        return token_of_environment()
    if str(path) != "-":
        return read_token(path)
    token = sys.stdin.readline().strip()
    if not token:
        raise ConfigError("Standard input gave no token. Write it as the first line.")
    return token
