"""The executor file."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from agentkd.deploy.bundle import from_bytes, read_bundle, to_bytes, with_footprint, write_bundle
from agentkd.deploy.container import pack, unpack
from agentkd.deploy.contract import NORMALISER, Contract, parse
from agentkd.dists import pack as pack_dist
from agentkd.errors import BundleError, BundleReason, ConfigError, NumbersError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import tensors as tensors_of
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from agentkd.types import Labels, Point, QValues

OBS = ObsSpec((Part("", "box", (3,), "float32"),))
ACTIONS: list[ActionSpec] = [
    DiscreteSpec(4, 1),
    MultiDiscreteSpec((2, 3)),
    MultiBinarySpec(5),
    BoxSpec((-1.0, -2.0), (1.0, 2.0), (2,)),
    BoxSpec((-np.inf,), (np.inf,), (1,)),
]


def small() -> Executor:
    """Make the smallest executor that has everything."""
    return initial("mlp:2", Spec(OBS, DiscreteSpec(2)), seed=3)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: type(a).__name__)
def test_a_bundle_gives_back_the_executor(action: ActionSpec, tmp_path: Path) -> None:
    """What is read decides exactly as what was written, for each kind of action."""
    executor = initial("mlp:8,8,tanh", Spec(OBS, action), seed=1)
    write_bundle(tmp_path / "e.akd", executor, {"planner": "none"})
    bundle = read_bundle(tmp_path / "e.akd")
    obs = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    assert np.array_equal(bundle.executor.outputs(obs), executor.outputs(obs))
    assert bundle.executor.spec == executor.spec
    assert bundle.manifest["provenance"] == {"planner": "none"}


def test_the_same_executor_gives_the_same_bytes() -> None:
    """A bundle is reproducible: no date, no order, no machine in it."""
    assert to_bytes(small(), {"a": 1}) == to_bytes(small(), {"a": 1})


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running an executor, or even making one, is a failure of the test."""

    def ran(*_: object) -> None:
        pytest.fail("a damaged bundle was looked into")

    monkeypatch.setattr("agentkd.deploy.bundle.answers", ran)
    monkeypatch.setattr("agentkd.deploy.bundle.read_tensors", ran)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_every_flipped_byte_is_refused_by_name_before_anything_runs(mask: int) -> None:
    """At each offset a change is noticed, named, and nothing of the file is used."""
    data = bytearray(to_bytes(small(), {}))
    seen = set()
    for offset in range(len(data)):
        data[offset] ^= mask
        with pytest.raises(BundleError) as caught:
            from_bytes(bytes(data))
        seen.add(caught.value.reason)
        data[offset] ^= mask
    assert seen == {"foreign", "layout", "checksum"}


@pytest.mark.usefixtures("nothing_runs")
def test_every_truncation_is_refused_by_name() -> None:
    """A bundle that ends early is said to end early, wherever it does."""
    data = to_bytes(small(), {})
    for cut in range(len(data)):
        with pytest.raises(BundleError) as caught:
            from_bytes(data[:cut])
        assert caught.value.reason == ("truncated" if cut else "empty")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_other_damage_is_refused_by_name(draw: st.DataObject) -> None:
    """Pieces that go missing, double, move or come on top are noticed, too."""
    data = to_bytes(small(), {})
    places = st.integers(0, len(data))
    start, end, at = sorted(draw.draw(places) for _ in range(3))
    piece = draw.draw(st.binary(max_size=40))
    damaged = data[:start] + piece + data[end:at] + data[start:end] + data[at:]
    if damaged == data:
        return
    with pytest.raises(BundleError) as caught:
        from_bytes(damaged)
    assert caught.value.reason in get_args(BundleReason)


def sealed(change: Mapping[str, object], **tensors: Mapping[str, Any]) -> bytes:
    """A bundle with other contents, whose sums are right: somebody made it so."""
    whole = from_bytes(to_bytes(small(), {}))
    weights = {"mean": whole.executor.mean, "scale": whole.executor.scale}
    for index, layer in enumerate(whole.executor.layers):
        weights |= tensors_of(layer, f"layer.{index}.")
    held = {
        f"{name}.safetensors": save({**original, **tensors.get(name, {})})
        for name, original in (("weights", weights), ("golden", whole.golden))
    }
    if tensors.get("labels"):
        held["labels.safetensors"] = save(dict(tensors["labels"]))
    sums = {name: hashlib.sha256(each).hexdigest() for name, each in held.items()}
    manifest = {**whole.manifest, "entries": sums, **change}
    text = json.dumps(manifest, sort_keys=True, indent=1).encode()
    return pack({"manifest.json": text, **held}, hashlib.sha256(text).hexdigest())


def contract(**change: object) -> dict[str, object]:
    """A change of the contract in the manifest."""
    return {"contract": {**from_bytes(to_bytes(small(), {})).manifest["contract"], **change}}


NAN = np.full((2, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("change", "tensors", "reason"),
    [
        ({"schema": 3}, {}, "schema"),
        ({"format": "other"}, {}, "schema"),
        ({"head": "hydra"}, {}, "manifest"),
        ({"layers": [{"kind": "hydra"}]}, {}, "manifest"),
        ({"layers": None}, {}, "manifest"),
        ({"spec": {}}, {}, "manifest"),
        ({"clip": "wide"}, {}, "manifest"),
        ({"entries": {}}, {}, "layout"),
        ({"entries": []}, {}, "manifest"),
        (contract(period=-1.0), {}, "manifest"),
        (contract(period="soon"), {}, "manifest"),
        (contract(observation={"size": 9, "names": [], "units": []}), {}, "manifest"),
        (contract(observation={"size": 3, "names": ["a"], "units": []}), {}, "manifest"),
        (contract(observation={"size": 3, "names": "abc", "units": []}), {}, "manifest"),
        (contract(memory={"size": 5, "reset": ""}), {}, "manifest"),
        ({"contract": None}, {}, "manifest"),
        ({}, {"weights": {"layer.0.weight": NAN}}, "tensors"),
        ({}, {"weights": {"mean": np.zeros(4, np.float32)}}, "manifest"),
        ({}, {"golden": {"outputs": np.ones((64, 2), np.float32)}}, "golden"),
        ({}, {"golden": {"outputs": np.ones((3, 1), np.float32)}}, "golden"),
        ({}, {"golden": {"obs": np.ones((64, 2), np.float32)}}, "golden"),
        ({}, {"golden": {"obs": np.full((64, 3), np.nan, np.float32)}}, "golden"),
        ({}, {"golden": {"starts": np.ones(3, np.float32)}}, "golden"),
    ],
)
def test_a_wrong_bundle_with_right_sums_is_refused_by_name(
    change: Mapping[str, object], tensors: Mapping[str, Mapping[str, object]], reason: str
) -> None:
    """Sums prove only that nothing was damaged; what is said is looked at, too."""
    assert from_bytes(sealed({})).executor.parameters == small().parameters
    with pytest.raises(BundleError) as caught:
        from_bytes(sealed(change, **tensors))
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{}", b"[1]", b'{"a": 1, "a": 2}', b"\xff"])
def test_a_manifest_that_is_none_is_refused(text: bytes) -> None:
    """Whatever stands there, the answer is a refusal and no other error."""
    data = pack({"manifest.json": text}, hashlib.sha256(text).hexdigest())
    with pytest.raises(BundleError) as caught:
        from_bytes(data)
    assert caught.value.reason == "manifest"


def test_a_manifest_in_another_spelling_is_refused() -> None:
    """There is one way to write it, so that the same executor has one digest."""
    entries, _ = unpack(to_bytes(small(), {}))
    text = json.dumps(json.loads(entries["manifest.json"])).encode()
    entries["manifest.json"] = text
    with pytest.raises(BundleError, match="not written as") as caught:
        from_bytes(pack(entries, hashlib.sha256(text).hexdigest()))
    assert caught.value.reason == "manifest"


def test_any_unzip_opens_a_bundle_and_zipfile_would_write_the_same() -> None:
    """The layout is the plain one of a ZIP whose entries are stored."""
    data = to_bytes(small(), {})
    entries, comment = unpack(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == entries
    assert zipped(entries, comment) == data


def zipped(entries: Mapping[str, bytes], comment: str) -> bytes:
    """What Python's own module makes of entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, data)
        archive.comment = comment.encode()
    return out.getvalue()


def test_a_bundle_from_before_there_were_contracts_is_read() -> None:
    """Files of schema 1 without contract, footprint and starts stay good."""
    entries, _ = unpack(to_bytes(small(), {"planner": "none"}))
    golden = load(entries["golden.safetensors"])
    del golden["starts"]
    entries["golden.safetensors"] = save(golden)
    manifest = json.loads(entries["manifest.json"])
    del manifest["contract"], manifest["footprint"]
    digest = hashlib.sha256(entries["golden.safetensors"]).hexdigest()
    manifest["entries"]["golden.safetensors"] = digest
    text = json.dumps(manifest, sort_keys=True, indent=1).encode()
    entries["manifest.json"] = text
    bundle = from_bytes(zipped(entries, hashlib.sha256(text).hexdigest()))
    assert bundle.contract == Contract()
    assert bundle.golden["starts"].tolist() == [1.0] * 64
    assert np.array_equal(bundle.executor.vector(), small().vector())


TOLD = Contract(("x", "y", "spin"), ("m", "m", ""), ("left", "right"), (), 0.02)


def test_the_contract_comes_back_and_stands_in_the_manifest() -> None:
    """Names, units, clock and formulas are there for who reads nothing else."""
    bundle = from_bytes(to_bytes(small(), {}, contract=TOLD))
    assert bundle.contract == TOLD
    said = bundle.manifest["contract"]
    assert said["observation"]["names"] == ["x", "y", "spin"]
    assert said["normaliser"] == {"formula": NORMALISER, "clip": 10.0}
    assert "greatest score" in said["action"]["scaling"]
    assert (said["period"], said["memory"]["size"]) == (0.02, 0)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Contract(("x", "y")), "2 obs names for 3"),
        (Contract(("x", "y", "x")), "twice"),
        (Contract(("x", "y", "")), "''"),
        (Contract(("x", "y", "a\nb")), "printable"),
        (Contract((), ("m",)), "1 obs units for 3"),
        (Contract((), (), ("a", "b", "c")), "3 action names for 2"),
        (Contract((), (), (), ("m", "m")), "2 action units for 0"),
        (Contract(period=0.0), "above 0"),
        (Contract(period=float("nan")), "above 0"),
    ],
)
def test_a_contract_that_does_not_fit_is_not_written(told: Contract, words: str) -> None:
    """Each name has its number, and each number its name."""
    with pytest.raises(ConfigError, match=words):
        to_bytes(small(), {}, contract=told)


@pytest.mark.parametrize(
    ("names", "units", "words"),
    [
        (["x,y"], [], "obs=x,y or action="),
        (["obs=x", "obs=y"], [], "twice"),
        ([], ["reward=m"], "obs=x,y or action="),
    ],
)
def test_words_for_a_contract_say_whose_they_are(
    names: list[str], units: list[str], words: str
) -> None:
    """What begins otherwise is refused with an example."""
    with pytest.raises(ConfigError, match=words):
        parse(names, units, None)
    read = parse(["obs=x, y,spin", "action=left,right"], ["obs=m,m,"], 0.02)
    assert read == TOLD


def test_golden_vectors_hold_the_executor_s_own_episodes() -> None:
    """Real observations lie beside the drawn ones, spread over all that were given."""
    episodes = [np.full((200, 3), n, np.float32) for n in range(4)]
    golden = from_bytes(to_bytes(small(), {}, golden=episodes)).golden
    assert golden["obs"].shape == (64 + 192, 3)
    assert {float(each) for each in golden["obs"][64:, 0]} == {0.0, 1.0, 2.0, 3.0}
    short = from_bytes(to_bytes(small(), {}, golden=[episodes[1][:5]])).golden
    assert short["obs"][64:].tolist() == [[1.0] * 3] * 5


def test_an_episode_that_does_not_fit_is_not_written() -> None:
    """NaN and another environment's observations are refused."""
    with pytest.raises(NumbersError):
        to_bytes(small(), {}, golden=[np.full((4, 3), np.nan, np.float32)])
    with pytest.raises(SpecError, match=r"\(4, 2\)"):
        to_bytes(small(), {}, golden=[np.zeros((4, 2), np.float32)])


def test_a_footprint_is_added_and_nothing_else_changes() -> None:
    """Weights, golden vectors and provenance are the bytes that they were."""
    before = to_bytes(small(), {"planner": "none"}, contract=TOLD)
    after = with_footprint(from_bytes(before), {"cores": [1]})
    old, new = (unpack(each)[0] for each in (before, after))
    manifests = [json.loads(each.pop("manifest.json")) for each in (old, new)]
    assert old == new
    assert manifests[0]["footprint"] == {"weights_bytes": 4 * len(small().vector())}
    manifests[0]["footprint"]["cores"] = [1]
    assert manifests[0] == manifests[1]


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    """NaN never reaches a file."""
    executor = small()
    tensors_of(executor.layers[0])["weight"][0, 0] = np.nan
    with pytest.raises(NumbersError):
        write_bundle(tmp_path / "e.akd", executor)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs nothing that was there before."""
    path = tmp_path / "e.akd"
    write_bundle(path, small(), {"n": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match="No space left") as caught:
        write_bundle(path, small(), {"n": 2})
    assert caught.value.reason == "unwritten"
    assert read_bundle(path).manifest["provenance"] == {"n": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["e.akd"]


def test_a_missing_and_an_empty_file_say_so(tmp_path: Path) -> None:
    """The message names the file and what is wrong with it."""
    with pytest.raises(BundleError, match="No such file") as caught:
        read_bundle(tmp_path / "nothing.akd")
    assert caught.value.reason == "unreadable"
    (tmp_path / "empty.akd").touch()
    with pytest.raises(BundleError, match="empty") as caught:
        read_bundle(tmp_path / "empty.akd")
    assert caught.value.reason == "empty"


def kept(count: int = 5) -> Labels:
    """Labels that fit the small executor."""
    random = np.random.default_rng(0)
    obs = random.standard_normal((count, 3)).astype(np.float32)
    return Labels(obs, QValues(random.standard_normal((count, 2)).astype(np.float32)))


def test_a_bundle_keeps_labels(tmp_path: Path) -> None:
    """They come back as they were, and a recorded footprint leaves them there."""
    bundle = write_bundle(tmp_path / "e.akd", small(), labels=kept())
    again = from_bytes(with_footprint(bundle, {"cores": []}))
    for each in (bundle, again):
        assert each.labels is not None
        assert isinstance(each.labels.dist, QValues)
        assert np.array_equal(each.labels.obs, kept().obs)
        assert np.array_equal(each.labels.dist.values, pack_dist(kept().dist))
    assert write_bundle(tmp_path / "f.akd", small()).labels is None


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (Labels(kept().obs[:, :2], kept().dist), SpecError),
        (Labels(kept().obs[:4], kept().dist), SpecError),
        (Labels(kept().obs, Point(kept().obs[:, :2])), SpecError),
        (Labels(np.full_like(kept().obs, np.nan), kept().dist), NumbersError),
        (Labels(kept().obs, QValues(np.full((5, 2), np.inf, np.float32))), NumbersError),
    ],
)
def test_labels_that_do_not_fit_are_not_written(labels: Labels, error: type[Exception]) -> None:
    """Other sizes, other kinds and numbers that are none are refused by the writer."""
    with pytest.raises(error):
        to_bytes(small(), {}, labels=labels)


OBS_ROWS, DIST_ROWS = kept().obs, np.zeros((5, 2), np.float32)


@pytest.mark.parametrize(
    ("about", "tensors"),
    [
        ({"kind": "qvalues", "count": 5}, {"obs": OBS_ROWS[:, :2], "dist": DIST_ROWS}),
        ({"kind": "qvalues", "count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS[:4]}),
        ({"kind": "qvalues", "count": 6}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "point", "count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "multicategorical", "count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": ["qvalues"], "count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "qvalues", "count": 5.0}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "r" * 9999, "count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "qvalues", "count": [5] * 9999}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "rumour", "count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"count": 5}, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ("qvalues", {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        (None, {"obs": OBS_ROWS, "dist": DIST_ROWS}),
        ({"kind": "qvalues", "count": 5}, {"obs": OBS_ROWS}),
        ({"kind": "qvalues", "count": 0}, {"obs": OBS_ROWS[:0], "dist": DIST_ROWS[:0]}),
        (
            {"kind": "qvalues", "count": 5},
            {"obs": np.full_like(OBS_ROWS, np.inf), "dist": DIST_ROWS},
        ),
        (
            {"kind": "qvalues", "count": 5},
            {"obs": OBS_ROWS, "dist": np.full_like(DIST_ROWS, np.nan)},
        ),
        ({"kind": "qvalues", "count": 5}, {"obs": OBS_ROWS.astype(np.float64), "dist": DIST_ROWS}),
        ({"kind": "qvalues", "count": 5}, {"obs": OBS_ROWS[0], "dist": DIST_ROWS}),
        ({"kind": "qvalues", "count": 5}, {}),
    ],
)
def test_kept_labels_that_cannot_be_meant_are_refused(
    about: object, tensors: Mapping[str, object]
) -> None:
    """With right sums, sizes, kinds and numbers are looked at before they are used."""
    with pytest.raises(BundleError) as caught:
        from_bytes(sealed({"labels": about}, labels=tensors))
    assert caught.value.reason == "tensors"
    assert len(str(caught.value)) < 400
