"""A distiller made from JSON values, for a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists, spec_json
from agentkd.deploy import kept
from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.change import ChangeOptions
from agentkd.distillation.dataset import Dataset
from agentkd.distillation.distiller import DistillerOptions
from agentkd.distillation.gate import GateOptions
from agentkd.distillation.history import Histories
from agentkd.distillation.live import LiveDistiller, LiveOptions
from agentkd.distillation.offline import DatasetSource, open_dataset
from agentkd.errors import ConfigError
from agentkd.executors.architecture import view_of
from agentkd.executors.executor import Executor, distribution
from agentkd.executors.layers import Past
from agentkd.executors.past import Window, made_again, past_layer, spread, unrolled
from agentkd.types import Labels
from agentkd.views import environment, pick


def build(
    executor: str,
    spec: Mapping[str, Any] | None = None,
    *,
    past: Sequence[str] = (),
    seed: int = 0,
    squashed: bool = True,
    batch: int = 256,
    learning_rate: float | None = None,
    warmup: int | None = None,
    capacity: int = 200_000,
    data: str | None = None,
    keep: bool = True,
    kept_share: float = 0.25,
    gate: bool = True,
    change: bool = True,
) -> LiveDistiller:
    """Make a distiller that learns for as long as it lives, at a constant rate.

    It starts from the labels that the executor's file keeps, or from those of `data`; without
    either from the file's golden observations, with the executor's own answers as labels. Its
    weights replace the executor that acts only if they pass the gate (`agentkd.distillation.gate`).

    Args:
        executor: An architecture such as "mlp:64,64", or the path of an .akd file to go on from.
        spec: The environment, as `agentkd.spec_json.to_json` writes it; an .akd knows its.
        past: How much of the past an architecture sees, such as ["stack:4"].
        seed: For the weights of an architecture and for which labels are drawn.
        squashed: For bounded boxes, whether an architecture ends in tanh.
        batch: Labels in one gradient step.
        learning_rate: Of Adam; by default 0.002 for an architecture, 0.0005 for a file.
        warmup: Gradient steps over which it rises; by default 50, or 1000 for a file.
        capacity: The most labels held in memory.
        data: A dataset that `agentkd record` wrote, to take kept labels from.
        keep: Whether kept labels are used. Leave them out where the robot or the task changed, so
            that the planner's answers are not what they were.
        kept_share: The weight of kept labels in the loss of each step.
        gate: Whether weights have to pass the gate.
        change: Whether labels are no longer learnt from once the world has changed
            (`agentkd.distillation.change`).

    Raises:
        ConfigError: If an argument does not fit the executor.
        LoadError: If the file or the dataset cannot be read.
    """
    bundle: Bundle | None = None
    if executor.endswith(".akd") or Path(executor).is_file():
        bundle = read_bundle(executor)
        chosen = bundle.executor
    else:
        if spec is None:
            raise ConfigError(
                f"The architecture {executor} needs the environment's spec: give "
                "spec=agentkd.spec_json.to_json(spec)."
            )
        known = spec_json.from_json(spec)
        chosen = made_again(executor, known, past, seed=seed, squashed=squashed)
    if unrolled(chosen).memory:
        raise ConfigError(
            f"{chosen.architecture} has a memory and learns from whole sequences: "
            "distil it with agentkd distill. In a live run take one without, such as "
            "mlp:64,64, or let it see stack:4."
        )
    labels: Labels | None = None
    seeds: Labels | None = None
    if keep and data is not None:
        labels = _of_data(data, chosen, seed)
    elif keep and bundle is not None:
        labels = bundle.labels
        # Without kept labels, the golden observations with the executor's own answers.
        seeds = _of_golden(bundle) if labels is None else None
    # A fresh Adam takes steps of the rate's size whatever the gradient, and would throw good
    # weights away.
    rate, rise = (5e-4, 1000) if bundle else (2e-3, 50)
    options = DistillerOptions(
        batch=batch,
        learning_rate=rate if learning_rate is None else learning_rate,
        warmup=rise if warmup is None else warmup,
        capacity=capacity,
        seed=seed,
        # The file's normaliser is of more labels than a robot's narrow day gives.
        normalise=bundle is None,
    )
    live = LiveOptions(
        kept_share, GateOptions() if gate else None, ChangeOptions() if change else None
    )
    untaught = bundle is None
    return LiveDistiller(chosen, options, kept=labels, seeds=seeds, live=live, untaught=untaught)


def _of_data(path: str, executor: Executor, seed: int) -> Labels:
    """Return labels spread over a dataset, as many as a file would keep."""
    spec = environment(executor.spec)
    dataset = open_dataset(path, spec=spec)
    about = dataset.about.spec
    if about.obs.size != spec.obs.size or about.action != spec.action:
        raise ConfigError(
            f"{path} has labels of {about.obs.size} numbers and {about.action}; the "
            f"executor takes {spec.obs.size} and {spec.action}."
        )
    if past_layer(executor) is not None:
        return _with_past(dataset, executor, path, seed)
    share = min(1.0, kept.capacity(executor.spec, dataset.kind) / max(1, dataset.labels))
    random = np.random.default_rng(seed)
    found = []
    for index in range(dataset.parts):
        rows = dataset.part(index)
        chosen = np.flatnonzero(random.random(len(rows)) < share)
        found.append((pick(executor.spec.obs, rows.obs[chosen]), dists.rows(rows.dist, chosen)))
    return Labels(
        np.concatenate([obs for obs, _ in found]),
        dists.stack([dist for _, dist in found], executor.spec.action),
    )


def _with_past(dataset: Dataset, executor: Executor, path: str, seed: int) -> Labels:
    """Return labels spread over a dataset, with what an executor is shown of the past."""
    past = past_layer(executor)
    assert past is not None
    taken = isinstance(past, Past)
    if taken and not dataset.taken:
        raise ConfigError(
            f"The executor sees {','.join(view_of(executor))}, and {path} does not say which "
            "actions were executed. Record it anew, or leave data out."
        )
    buffer = LabelBuffer(linked=True)
    for obs, dist, link in DatasetSource(dataset, 1 << 62, seed, taken=taken).fill():
        buffer.add(pick(executor.spec.obs, obs), dist, link)
    histories = Histories(buffer, past)
    histories.blank = executor.mean
    most = kept.capacity(unrolled(executor).spec, dataset.kind)
    places = np.random.default_rng(seed).permutation(len(buffer))[:most]
    found, packed = histories.at(places)
    return Labels(found, dists.unpack(dataset.kind, packed, executor.spec.action))


def _of_golden(bundle: Bundle) -> Labels:
    """Return a file's golden observations with the executor's own answers as labels."""
    executor, golden = bundle.executor, bundle.golden
    outputs = np.asarray(golden["outputs"], np.float32)
    obs = np.asarray(golden["obs"], np.float32)
    past = past_layer(executor)
    if past is not None:
        window, rows = Window(past), []
        for row, begins in zip(obs, golden["starts"], strict=True):
            if begins:
                window.reset()
            rows.append(window.tick(row))
        shown = np.stack(rows)
        obs = np.where(np.isnan(shown), spread(executor.mean, past), shown)
    return Labels(obs, distribution(executor.head, outputs, executor.spec))
