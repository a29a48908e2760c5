"""Three devices, three planners, one executor; no observation leaves a device.

Each device is a CartPole with a pole of another length. Without a word all of it is in this
program, which needs agentkd[federated]. Each device and the server may also be a program of its
own, at a broker; in five terminals:

    mosquitto -p 1883
    python examples/federated.py join short
    python examples/federated.py join usual
    python examples/federated.py join long
    python examples/federated.py serve --keep runs/poles.round --out runs/poles.akd

Kill one of them meanwhile: a device is left out until it is there again, and the server goes on
with the round that it was in. The server needs agentkd[federated,mqtt], a device
agentkd[train,mqtt].
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np

from agentkd import Executor, env_spec, initial, write_bundle
from agentkd.distillation.federated import Member, Remote, Round, federate, open_client
from agentkd.interrupt import ctrl_c
from agentkd.measure.evaluate import evaluate
from agentkd.transport.options import MqttOptions
from agentkd.transport.transport import Connect
from agentkd.types import Categorical, Floats

SITE, ARCHITECTURE = "poles", "mlp:16"
LENGTHS = {"short": 0.3, "usual": 0.5, "long": 0.8}


def pole(length: float) -> gym.Env[np.ndarray, int]:
    """Return CartPole with half a pole's length in m."""
    env = gym.make("CartPole-v1")
    env.unwrapped.length = length  # type: ignore[attr-defined]
    return env


def planner(obs: Floats) -> Categorical:
    """Push to where the pole falls: log-probabilities of left and right, (batch, 2)."""
    push = obs @ np.array([0.2, 0.5, 10.0, 2.0], np.float32)
    return Categorical(np.stack([-push, push], axis=1))


def usual() -> Floats:
    """Return states of the usual pole, which everybody may know, (states, 4)."""
    env, seen = pole(LENGTHS["usual"]), []
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        for tick in range(100):
            # Every third push is the wrong one, so that the pole swings.
            left, right = planner(obs[None]).logits[0]
            obs, _, ended, _, _ = env.step(int((right > left) ^ (tick % 3 == 0)))
            seen.append(obs)
            if ended:
                break
    return np.stack(seen)


def alone(options: argparse.Namespace) -> None:
    """Federate here, and let the executor act on each device."""
    devices = {name: partial(pole, length) for name, length in LENGTHS.items()}
    clients = {
        name: open_client(env, planner, ARCHITECTURE, seed=seed)
        for seed, (name, env) in enumerate(devices.items())
    }
    executor = initial(ARCHITECTURE, env_spec(gym.make("CartPole-v1")))
    result = federate(clients, executor, rounds=options.rounds, labels=options.labels, steps=100)
    print(f"received {result.received:,} bytes, none of them an observation")
    for name, client in clients.items():
        own = client.own(result.executor)  # with the normaliser that stayed on the device
        returns = evaluate(devices[name], own, episodes=5, seed=100).returns
        print(f"{name}: mean return {np.mean(returns):.0f} of 500")
        client.close()


def serve(connect: Connect, options: argparse.Namespace) -> None:
    """Ask for rounds, and write the shared executor."""
    executor = initial(ARCHITECTURE, env_spec(gym.make("CartPole-v1")))
    with Remote(connect, SITE, tuple(LENGTHS), patience=options.patience) as clients:
        result = federate(
            clients,
            executor,
            rounds=options.rounds,
            labels=options.labels,
            steps=100,
            normaliser="shared",
            public=usual(),
            timeout=options.timeout,
            keep=options.keep,
            watch=show,
        )
    write_bundle(options.out, result.executor)
    print(f"wrote {options.out}; received {result.received:,} bytes", flush=True)


def show(done: Round, _: Executor) -> None:
    """Print what happened in a round."""
    print(f"round {done.number}: {', '.join(done.replied)} replied", flush=True)
    for name, why in done.refused.items():
        print(f"round {done.number}: without {name}: {why}", flush=True)


def join(connect: Connect, name: str) -> None:
    """Do rounds for the server until Ctrl-C."""
    client = open_client(
        partial(pole, LENGTHS[name]), planner, ARCHITECTURE, seed=list(LENGTHS).index(name)
    )
    member = Member(client, connect, SITE, name)

    async def follow() -> None:
        task = asyncio.create_task(member.run())
        with ctrl_c() as ended:
            while not (ended() or task.done()):
                await asyncio.wait({task}, timeout=0.3)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    print(f"{name} is there", flush=True)
    try:
        asyncio.run(follow())
    finally:
        client.close()


def main() -> None:
    """Be all of it, the server, or a device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("serve", "join"))
    parser.add_argument("name", nargs="?", choices=tuple(LENGTHS))
    parser.add_argument("--broker", default="mqtt://127.0.0.1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a round")
    parser.add_argument("--patience", type=float, default=10.0)
    parser.add_argument("--keep", type=Path, help="where the server keeps each round's end")
    parser.add_argument("--out", type=Path, default=Path("poles.akd"))
    options = parser.parse_args()
    if options.what is None:
        alone(options)
        return
    from agentkd.transport.mqtt import MqttTransport

    connect = partial(MqttTransport, MqttOptions(options.broker))
    if options.what == "serve":
        serve(connect, options)
    elif options.name is None:
        parser.error("which pole is it? " + ", ".join(LENGTHS))
    else:
        join(connect, options.name)


if __name__ == "__main__":
    main()
