"""Files that were made to do harm: a clear error, little time, little memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentkd import Agent
from agentkd.cli import inspect
from agentkd.deploy.bundle import from_bytes, read_bundle, to_bytes
from agentkd.deploy.container import pack, unpack
from agentkd.distillation import open_dataset
from agentkd.distillation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distillation.dataset import read_dataset
from agentkd.distillation.distiller import Distiller
from agentkd.errors import BundleError, LoadError
from agentkd.executors.architecture import initial
from agentkd.planners.load import load_planner
from agentkd.planners.sb3 import safe_pickle as inert
from agentkd.planners.sb3.vecnormalize import read_statistics
from agentkd.report.write import read_report
from agentkd.runtime.log import FRAME, HEADER, MAGIC
from agentkd.runtime.logfile import LogFile
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical

ROOT = Path(__file__).parents[1]
BOX = BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,))
BIG = 10**400


def bundle(change: Callable[[Any], object], action: ActionSpec = BOX, name: str = "mlp:8") -> bytes:
    """A bundle whose manifest was changed, and sealed again with right sums."""
    spec = Spec(ObsSpec((Part("", "box", (6,), "float32"),)), action)
    entries, _ = unpack(to_bytes(initial(name, spec), {"env": "X-v0"}))
    manifest = json.loads(entries["manifest.json"])
    manifest.pop("contract")
    change(manifest)
    text = json.dumps(manifest, sort_keys=True, indent=1).encode()
    entries["manifest.json"] = text
    return pack(entries, hashlib.sha256(text).hexdigest())


def test_a_shape_has_as_many_numbers_as_bounds() -> None:
    """Native code cannot write past a buffer that a shape made too small."""
    wide = BoxSpec((-1.0,) * 5000, (1.0,) * 5000, (5000,))

    def change(manifest: Any) -> None:
        manifest["spec"]["action"]["shape"] = [1]

    with pytest.raises(BundleError, match="lower"):
        from_bytes(bundle(change, wide, "linear"))


@pytest.mark.parametrize("head", ["squashed", "clipped", "bernoulli", "", None, []])
def test_a_head_fits_the_action(head: Any) -> None:
    """A head that would read bounds which are not there is refused."""
    with pytest.raises(BundleError, match="head"):
        from_bytes(bundle(lambda m: m.update(head=head), DiscreteSpec(50), "linear"))


@pytest.mark.parametrize(
    ("low", "high", "head"),
    [
        (["nan"] * 2, [1, 1], "squashed"),
        ([-1, -1], ["inf"] * 2, "squashed"),
        ([-3e38, -1], [3e38, 1], "squashed"),
        ([5, 5], [1, 1], "squashed"),
        ([-1, -1], ["-inf"] * 2, "clipped"),
        (["inf"] * 2, ["inf"] * 2, "clipped"),
        ([1e39, 0], [1e40, 1], "clipped"),
        ([-1e40, 0], [-1e39, 1], "clipped"),
        ([None, 0], [1, 1], "clipped"),
        ([True, 0], [1, 1], "clipped"),
        ([[0], 0], [1, 1], "clipped"),
    ],
)
def test_bounds_are_numbers_that_can_be_acted(low: Any, high: Any, head: str) -> None:
    """No bound is NaN, crossed, or infinite where a squash needs it."""

    def change(manifest: Any) -> None:
        manifest["spec"]["action"].update(low=low, high=high)
        manifest["head"] = head

    with pytest.raises(BundleError):
        from_bytes(bundle(change))


@pytest.mark.parametrize(
    ("low", "high"), [(-np.inf, np.inf), (-3e38, 3e38), (-1e300, 1e300), (0.1, 0.1)]
)
def test_open_bounds_are_acted_in_both_forms(low: float, high: float) -> None:
    """Infinite, very large and equal bounds are no fault where nothing is squashed."""
    spec = Spec(
        ObsSpec((Part("", "box", (6,), "float32"),)), BoxSpec((low, low), (high, high), (2,))
    )
    executor = from_bytes(to_bytes(initial("mlp:8", spec, squashed=False), {})).executor
    first, second = (
        Agent(executor, native=native).decide(np.ones(6, np.float32)).action
        for native in (True, False)
    )
    assert np.isfinite(first).all()
    assert np.allclose(first, second)


def period(manifest: Any) -> None:
    manifest["contract"] = {
        "period": BIG,
        "observation": {"size": 6, "names": [], "units": []},
        "action": {"size": 2, "names": [], "units": []},
        "normaliser": {"clip": 10.0},
        "memory": {"size": 0},
    }


@pytest.mark.parametrize(
    "change",
    [
        period,
        lambda m: m.update(clip=BIG),
        lambda m: m.update(clip=0),
        lambda m: m.update(version=-1),
        lambda m: m.update(version=2**63),
        lambda m: m.update(memory=5),
        lambda m: m.update(parameters=5),
        lambda m: m.update(layers=[]),
        lambda m: m.update(layers=5),
        lambda m: m.update(architecture="mlp:65536,65536"),
        lambda m: m.update(architecture="gru:8"),
        lambda m: m.update(provenance=5),
        lambda m: m.update(footprint=[]),
        lambda m: m.update(footprint={"cores": [5]}),
        lambda m: m["provenance"].update(planner={"refs": 5}),
        lambda m: m["provenance"].update(env="\ud800"),
        lambda m: m["spec"]["obs"]["parts"][0].update(shape=[10**30]),
        lambda m: m["spec"]["obs"]["parts"][0].update(shape=[-6]),
        lambda m: m["spec"]["obs"]["parts"][0].update(dtype="O"),
        lambda m: m["spec"]["obs"].update(layout="tree"),
        lambda m: m["spec"]["obs"].update(parts=[]),
        lambda m: m["spec"]["action"].update(low=[BIG, 0]),
        lambda m: m.update(spec="x"),
    ],
    ids=range(23),
)
def test_odd_values_in_a_manifest_are_refused(change: Callable[[Any], object]) -> None:
    """A manifest with right sums and odd values is a `BundleError`, nothing else."""
    with pytest.raises(BundleError):
        from_bytes(bundle(change))


def test_a_card_shows_what_a_maker_wrote_whatever_it_is() -> None:
    """Provenance that looks unexpected is shown as it is."""
    odds: list[Any] = [5, [], {}, "x", None, [{}], {"mean": 1}, {"a": [1.0]}]
    for odd in odds:
        names = ("planner", "labels", "retention", "returns", "command", "versions")
        assert isinstance(inspect.origin(dict.fromkeys(names, odd)), dict)
    assert inspect.origin({"planner": {"refs": 5}})["planner"] == ", 5"


def test_an_executor_file_that_is_no_file(tmp_path: Path) -> None:
    """A pipe, a folder and a device are unreadable; nothing hangs."""
    os.mkfifo(tmp_path / "e.akd")
    for path in (tmp_path / "e.akd", tmp_path, Path("/dev/zero")):
        with pytest.raises(BundleError) as caught:
            read_bundle(path)
        assert caught.value.reason == "unreadable"
    with (tmp_path / "large.akd").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError) as caught:
        read_bundle(tmp_path / "large.akd")
    assert caught.value.reason == "large"


def nested(bottom: Any, pair: Callable[[Any], Any]) -> Any:
    for _ in range(60):
        bottom = pair(bottom)
    return bottom


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pair", [lambda x: [x, x], lambda x: (x, x), lambda x: {"a": x, "b": x}])
def test_each_object_of_a_pickle_is_visited_once(pair: Any, protocol: int) -> None:
    """Lists that hold one list twice, 60 deep, end at once."""
    inert.read(pickle.dumps(nested([0], pair), protocol))


def test_pickles_that_would_never_end_are_refused() -> None:
    """Keys whose hash takes for ever, sets, and too many instructions are refused."""
    key = pickle.dumps(nested((0,), lambda x: (x, x)), 2)[2:-1]
    hashed = b"\x80\x02}" + key + b"K\x01s."
    many = pickle.dumps([[] for _ in range(200_000)], 2)
    for raw in (hashed, pickle.dumps({1}, 4), many):
        with pytest.raises(LoadError):
            inert.read(raw)


def test_a_pickle_changes_none_of_the_readers_functions() -> None:
    """State is given to stand-ins only."""
    raw = b"\x80\x02c_codecs\nencode\n}X\x03\x00\x00\x00abcK\x01sb."
    with pytest.raises(LoadError, match="not an object"):
        inert.read(raw)


def test_statistics_in_lists_in_lists_are_refused(tmp_path: Path) -> None:
    """NumPy is not asked to unfold them."""
    body = pickle.dumps(nested([0], lambda x: [x, x]), 2)[2:-1]
    name = b"cstable_baselines3.common.vec_env.vec_normalize\nVecNormalize\n)\x81}"
    rms = b"cstable_baselines3.common.running_mean_std\nRunningMeanStd\n)\x81}"
    inner = rms + b"(X\x04\x00\x00\x00mean" + body + b"X\x03\x00\x00\x00varK\x01ub"
    raw = b"\x80\x02" + name + b"X\x07\x00\x00\x00obs_rms" + inner + b"sb."
    (tmp_path / "v.pkl").write_bytes(raw)
    with pytest.raises(LoadError, match="a list"):
        read_statistics(tmp_path / "v.pkl")


KEY = "mlp_extractor.policy_net.0.weight"


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A save of ours whose weights were changed."""
    with (
        zipfile.ZipFile(ROOT / "policies/lunarlander/planner.zip") as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        target.writestr("data", source.read("data"))
        raw = io.BytesIO(source.read("policy.pth"))
        state = torch.load(raw, weights_only=True)
        change(state)
        out = io.BytesIO()
        torch.save(state, out)
        target.writestr("policy.pth", out.getvalue())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**9, 10**9),
        torch.zeros(1).expand(2 * 10**9),
        torch.eye(3).to_sparse(),
        torch.zeros(10**12, device="meta"),
        torch._neg_view(torch.zeros(3, 3)),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.bool),
        5,
        None,
    ],
    ids=range(9),
)
def test_weights_are_numbers_that_are_stored(tensor: Any, tmp_path: Path) -> None:
    """Views that repeat a number, sparse, meta and negated tensors are refused."""
    rewritten(tmp_path / "planner.zip", lambda state: state.update({KEY: tensor}))
    with pytest.raises(LoadError):
        load_planner(str(tmp_path / "planner.zip"))


def test_weights_that_unpack_are_refused(tmp_path: Path) -> None:
    """A bomb in `policy.pth`, or around it, is refused before it is unpacked."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(1 << 22))
    path = tmp_path / "planner.zip"
    for method, raw in (
        (zipfile.ZIP_STORED, bomb.getvalue()),
        (zipfile.ZIP_DEFLATED, bytes(1 << 26)),
    ):
        with zipfile.ZipFile(path, "w", method) as file:
            file.writestr("data", "{}")
            file.writestr("policy.pth", raw)
        with pytest.raises(LoadError, match=r"compressed|unpacks"):
            load_planner(str(path))


def test_deep_json_is_refused_everywhere(tmp_path: Path) -> None:
    """Reports, manifests, metadata and headers of 100,000 brackets are clear errors."""
    deep = b"[" * 100_000
    (tmp_path / "m" / "data").mkdir(parents=True)
    for name in ("report.json", "manifest.json", "m/data/metadata.json"):
        (tmp_path / name).write_bytes(deep)
    (tmp_path / "m/data/main_data.hdf5").write_bytes(b"x")
    body = bytes([HEADER]) + deep
    frame = FRAME.pack(len(body), zlib.crc32(body))
    (tmp_path / "x.akdlog").write_bytes(MAGIC + frame + body)
    for read in (
        lambda: read_report(tmp_path / "report.json"),
        lambda: read_dataset(tmp_path),
        lambda: open_dataset(str(tmp_path / "m")),
        lambda: LogFile(tmp_path / "x.akdlog"),
    ):
        with pytest.raises(LoadError):
            read()


def distiller() -> Distiller:
    spec = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
    made = Distiller(initial("mlp:8", spec))
    made.expect("categorical")
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of some labels and a step."""
    made = distiller()
    random = np.random.default_rng(0)
    obs = random.standard_normal((64, 4)).astype(np.float32)
    made.add(obs, Categorical(obs[:, :2].copy()))
    made.step()
    save_checkpoint(tmp_path, made, Checkpoint())
    return tmp_path


def first_average(state: dict[str, Any], tensor: Any) -> None:
    state["adam"]["state"][0]["exp_avg"] = tensor


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(network=5),
        lambda s: s.update(adam=None),
        lambda s: s.update(seconds={}),
        lambda s: s.update(seconds=float("nan")),
        lambda s: s.update(steps=-1),
        lambda s: s.update(steps=2**70),
        lambda s: s.update(average=[]),
        lambda s: s.update(objective=5),
        lambda s: s.pop("planner"),
        lambda s: s["average"].__setitem__(0, torch.zeros(1)),
        lambda s: s["average"].__setitem__(0, s["average"][0] * float("nan")),
        lambda s: s["network"].update(mean=torch.zeros(1).expand(4)),
        lambda s: first_average(s, torch.zeros(1)),
        lambda s: first_average(s, torch.zeros(8, 4).double()),
        lambda s: s["adam"]["state"].update({9: {}}),
        lambda s: s["adam"]["state"][0].update(step=torch.tensor(float("nan"))),
    ],
    ids=range(16),
)
def test_a_checkpoint_of_other_state_is_refused(
    change: Callable[[Any], object], checkpoint: Path
) -> None:
    """Adam's averages, which native code writes to, have their parameters' shapes."""
    state = torch.load(checkpoint / "distiller.pt", weights_only=True)
    change(state)
    torch.save(state, checkpoint / "distiller.pt")
    with pytest.raises(LoadError):
        load_checkpoint(checkpoint, distiller())


def test_a_checkpoint_that_is_a_list_is_refused(checkpoint: Path) -> None:
    """Its state has names."""
    torch.save([1], checkpoint / "distiller.pt")
    with pytest.raises(LoadError, match="not an object"):
        load_checkpoint(checkpoint, distiller())


@pytest.mark.parametrize(
    "change",
    [
        {"links": np.zeros(3, np.int32)},
        {"links": np.full(64, -9, np.int32)},
        {"rows": np.full((64, 6), np.nan, np.float32)},
        {"rows": np.zeros((64, 7), np.float32)},
        {"rows": np.zeros((64, 6), np.float64)},
        {"rows": np.zeros(64, np.float32)},
        {"first": 64},
        {"first": -1},
        {"split": 3},
        {"split": 0.5},
        {"kind": np.array("gaussian")},
        {"kind": np.array("x")},
        {"seen": np.zeros(3)},
    ],
    ids=range(13),
)
def test_labels_that_do_not_fit_are_refused(change: dict[str, Any], checkpoint: Path) -> None:
    """Rows, links and counts have to go together, and with the executor."""
    with np.load(checkpoint / "labels.npz") as data:
        held = dict(data)
    np.savez(checkpoint / "labels.npz", **{**held, **change})
    with pytest.raises(LoadError):
        load_checkpoint(checkpoint, distiller())


def test_labels_of_no_size_are_refused(checkpoint: Path) -> None:
    """A header that names petabytes allocates nothing."""
    with np.load(checkpoint / "labels.npz") as data:
        held = dict(data)
    for bomb in ("links", "rows", "split"):
        with zipfile.ZipFile(checkpoint / "labels.npz", "w") as file:
            for name, array in held.items():
                out = io.BytesIO()
                if name == bomb:
                    shape = (10**15,) if name == "links" else (10**14, 6)
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(out, header)
                else:
                    np.save(out, array)
                file.writestr(f"{name}.npy", out.getvalue())
        with pytest.raises(LoadError, match="bytes for an array"):
            load_checkpoint(checkpoint, distiller())


def test_golden_vectors_compare_actions() -> None:
    """Other bounds than those of the maker give other actions, and are noticed."""

    def change(manifest: Any) -> None:
        manifest["spec"]["action"].update(low=[-2, -2])

    with pytest.raises(BundleError, match="action") as caught:
        from_bytes(bundle(change))
    assert caught.value.reason == "golden"
