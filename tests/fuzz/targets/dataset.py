"""Datasets of labels: the manifest and its parts, with their SHA-256 recomputed."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.dataset import MANIFEST, About, Dataset, Rows, read_dataset
from agentkd.distillation.recording import DatasetWriter
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec, Spec
from agentkd.types import ActionDist, Categorical, Gaussian, MultiCategorical
from tests.deploy_executors import OBS
from tests.fuzz import mutate
from tests.fuzz.archives import tensors
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target


@functools.cache
def seeds() -> tuple[dict[str, bytes], ...]:
    """Small datasets with several kinds of answers, each of two parts."""
    logits = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    kinds: list[tuple[Any, ActionDist]] = [
        (DiscreteSpec(5), Categorical(logits)),
        (MultiDiscreteSpec((2, 3)), MultiCategorical(logits, (2, 3))),
        (BoxSpec((-1.0,) * 5, (1.0,) * 5, (5,)), Gaussian(logits, np.zeros(5, np.float32))),
    ]
    return tuple(_written(Spec(OBS, action), dist) for action, dist in kinds)


def _written(spec: Spec, dist: ActionDist) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "data"
        about = About("X-v0", spec, "PPO", ("a.zip",), "d1", 7, 1, (1.0,), (0.0,), 5, {})
        with DatasetWriter(folder, about, part=8) as writer:
            for tick in range(4):
                obs = np.full((4, 7), tick, np.float32)
                begins = np.full(4, tick == 0)
                ended = np.zeros(4, np.uint8)
                writer.add(obs, dist, np.ones(4, np.float32), begins, ended)
        return {each.name: each.read_bytes() for each in sorted(folder.iterdir())}


def build(draw: Draw) -> Files:
    """Change the manifest, a part, or both."""
    files = dict(draw.choice(seeds()))
    manifest: Any = json.loads(files[MANIFEST])
    if draw.chance(2):
        name = draw.choice([each for each in files if each != MANIFEST])
        files[name] = tensors(draw, files[name])
        for part in manifest["parts"]:
            part["sha256"] = hashlib.sha256(files[part["file"]]).hexdigest()
            part["bytes"] = len(files[part["file"]])
    if draw.chance(2):
        files[MANIFEST] = mutate.document(draw, manifest)
    else:
        files[MANIFEST] = mutate.written(manifest)
    return files


def read(folder: Path) -> tuple[Dataset, list[Rows]]:
    """Read all parts."""
    dataset = read_dataset(folder)
    return dataset, [dataset.part(index) for index in range(dataset.parts)]


def work(found: tuple[Dataset, list[Rows]]) -> None:
    """Learn from what was read: the labels are numbers of the spec's shape."""
    dataset, parts = found
    spec = dataset.about.spec
    buffer = LabelBuffer(64)
    for rows in parts:
        if not len(rows):
            continue
        dists.check(rows.dist, spec.action, len(rows))
        for column in (rows.obs, dists.pack(rows.dist), rows.reward):
            assert np.isfinite(column).all()
        assert rows.episode.shape == rows.ended.shape == (len(rows),)
        buffer.add(rows.obs, rows.dist)


TARGET = Target("dataset", build, read, work)
