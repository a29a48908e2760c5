"""Layers: the same numbers as torch's own modules, in NumPy, torch and C."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from agentkd.deploy.bundle import from_bytes, to_bytes
from agentkd.deploy.vectors import probes
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.architecture import initial, parse
from agentkd.executors.arithmetic import advance, apply
from agentkd.executors.executor import Executor
from agentkd.executors.layers import (
    Attention,
    Conv,
    Dense,
    Gru,
    Lstm,
    Past,
    Pool,
    Stack,
    memory,
    sizes,
    tensors,
    with_tensors,
)
from agentkd.executors.native import compile_native
from agentkd.executors.network import Network, Trace
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.testing import check_policy
from agentkd.types import Floats
from tests.deploy_executors import CASES, NAMES, lively

RANDOM = np.random.default_rng(0)


def near(got: Floats, wanted: Floats, tolerance: float = 1e-5) -> None:
    """The same within a tolerance relative to 1 + |x|."""
    assert got.shape == wanted.shape
    assert np.max(np.abs(got - wanted) / (1 + np.abs(wanted))) < tolerance


def from_torch(tensor: torch.Tensor) -> Floats:
    return tensor.detach().numpy().astype(np.float32)


@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_every_form_gives_what_numpy_gives(architecture: str, action: ActionSpec) -> None:
    """torch and native C, over a sequence where there is a memory."""
    executor = lively(architecture, action)
    obs = probes(executor, 40, seed=3)
    wanted = executor.follow(obs)
    network, native = Network(executor), compile_native(executor)
    begins = torch.zeros((40, 1), dtype=torch.bool)
    with torch.no_grad():
        followed, _ = network.follow(torch.from_numpy(obs)[:, None], begins)
    near(from_torch(followed[:, 0]), wanted)
    if native is not None:
        near(native.follow(obs), wanted)
    if not executor.memory:
        near(executor.outputs(obs), wanted)
        near(from_torch(network(torch.from_numpy(obs))), wanted)


@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_an_executor_keeps_the_contract_of_policies(architecture: str, action: ActionSpec) -> None:
    """Batches, rows, and a memory that is handled row by row, in NumPy and in C."""
    executor = lively(architecture, action)
    check_policy(executor.policy, executor.spec)
    native = compile_native(executor)
    if native is not None:
        check_policy(native.policy, executor.spec)


@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_what_is_frozen_from_torch_is_what_went_in(architecture: str, action: ActionSpec) -> None:
    """Nothing is lost on the way to torch and back, into a vector, into a file."""
    executor = lively(architecture, action)
    vector = executor.vector()
    assert (Network(executor).freeze(3).vector() == vector).all()
    assert (executor.with_vector(vector, 2).vector() == vector).all()
    read = from_bytes(to_bytes(executor, {})).executor
    assert (read.vector() == vector).all()
    assert read.layers[0].__class__ is executor.layers[0].__class__
    assert executor.parameters == len(vector) - 2 * len(executor.mean)


@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_another_normaliser_changes_nothing(architecture: str, action: ActionSpec) -> None:
    """The first layer makes up for it, whatever it is; images have it by channel."""
    executor = lively(architecture, action)
    network = Network(executor)
    obs = (executor.mean + 0.1 * RANDOM.standard_normal((9, len(executor.mean)))).astype(np.float32)
    before = executor.follow(obs)
    mean, scale = executor.mean + 0.5, np.abs(executor.scale) * 0.7 + 0.1
    first = executor.layers[0]
    if isinstance(first, Conv):
        if not first.channels_first:
            # A mean and a scale a channel to begin with.
            executor.mean[:], executor.scale[:] = 0.2, 0.5
            network, before = Network(executor), executor.follow(obs)
        mean, scale = executor.mean + 0.5, np.abs(executor.scale) * 0.7 + 0.1
    network.renormalise(mean.astype(np.float32), scale.astype(np.float32))
    # What a stack lacks at first are zeros after the normaliser, whichever it is.
    begun = first.count - 1 if isinstance(first, Stack) else 0
    begun = 4 if isinstance(first, Past) else begun
    near(network.freeze(1).follow(obs)[begun:], before[begun:], 1e-4)


def test_a_gru_is_torchs() -> None:
    """Gates in the same order, the reset after the product."""
    theirs = nn.GRU(3, 4)
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
    weight, bias, hidden, after = (from_torch(getattr(theirs, n)) for n in names)
    ours = Gru(Dense(weight, bias), Dense(hidden, after))
    x = RANDOM.standard_normal((6, 3)).astype(np.float32)
    state = np.zeros((1, 4), np.float32)
    got = []
    for row in x:
        out, state = advance(ours, row[None], state)
        got.append(out[0])
    near(np.stack(got), from_torch(theirs(torch.from_numpy(x)[:, None])[0][:, 0]))


def test_an_lstm_is_torchs() -> None:
    """Gates in the same order, and the cell behind the hidden numbers."""
    theirs = nn.LSTM(3, 4)
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
    weight, bias, into, after = (from_torch(getattr(theirs, n)) for n in names)
    ours = Lstm(Dense(weight, bias), Dense(into, after))
    x = RANDOM.standard_normal((6, 3)).astype(np.float32)
    state = np.zeros((1, 8), np.float32)
    for row in x:
        _, state = advance(ours, row[None], state)
    _, (hidden, cell) = theirs(torch.from_numpy(x)[:, None])
    near(state, from_torch(torch.cat([hidden[0], cell[0]], 1)))
    assert memory(ours) == 8


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "last"])
def test_a_convolution_is_torchs(first: bool) -> None:
    """Whichever way the image lies; what comes out lies by row, column and channel."""
    theirs = nn.Conv2d(3, 5, 3, stride=2)
    weight = from_torch(theirs.weight).transpose(0, 2, 3, 1)
    ours = Conv(weight, from_torch(theirs.bias), "none", 2, (8, 7, 3), first)  # type: ignore[arg-type]
    image = RANDOM.standard_normal((4, 3, 8, 7)).astype(np.float32)
    given = image if first else image.transpose(0, 2, 3, 1)
    wanted = from_torch(theirs(torch.from_numpy(image))).transpose(0, 2, 3, 1)
    near(apply(ours, given.reshape(4, -1)), wanted.reshape(4, -1))
    assert sizes(ours) == (168, 3 * 3 * 5)


def test_a_block_of_attention_is_torchs() -> None:
    """torch's own encoder layer, with normalisation first."""
    theirs = nn.TransformerEncoderLayer(6, 2, 10, dropout=0.0, batch_first=True, norm_first=True)
    with torch.no_grad():
        for each in theirs.parameters():
            each.copy_(torch.randn(each.shape, generator=torch.manual_seed(1)) * 0.3)
    names = {
        "norm.gain": theirs.norm1.weight,
        "norm.bias": theirs.norm1.bias,
        "qkv.weight": theirs.self_attn.in_proj_weight,
        "qkv.bias": theirs.self_attn.in_proj_bias,
        "out.weight": theirs.self_attn.out_proj.weight,
        "out.bias": theirs.self_attn.out_proj.bias,
        "norm_after.gain": theirs.norm2.weight,
        "norm_after.bias": theirs.norm2.bias,
        "up.weight": theirs.linear1.weight,
        "up.bias": theirs.linear1.bias,
        "down.weight": theirs.linear2.weight,
        "down.bias": theirs.linear2.bias,
    }
    spec = Spec(ObsSpec((Part("", "box", (5, 6), "float32"),)), DiscreteSpec(2))
    block = initial("attention:6/2/1", spec).layers[1]
    assert isinstance(block, Attention)
    assert list(tensors(block)) == list(names)
    arrays = iter([from_torch(each) for each in names.values()])
    ours = with_tensors(block, arrays)
    x = RANDOM.standard_normal((3, 5, 6)).astype(np.float32)
    with torch.no_grad():
        wanted = from_torch(theirs.train()(torch.from_numpy(x)))
    near(apply(ours, x.reshape(3, -1)), wanted.reshape(3, -1))


def test_the_memory_starts_afresh_where_an_episode_begins() -> None:
    """A sequence of two episodes is two sequences."""
    executor = lively("gru:6", DiscreteSpec(3))
    obs = probes(executor, 10, seed=5)
    begins = torch.zeros((10, 1), dtype=torch.bool)
    begins[4] = True
    with torch.no_grad():
        followed, _ = Network(executor).follow(torch.from_numpy(obs)[:, None], begins)
    apart = np.concatenate([executor.follow(obs[:4]), executor.follow(obs[4:])])
    near(from_torch(followed[:, 0]), apart)


def test_a_trace_holds_layers_and_relations() -> None:
    """Each layer's numbers, and queries, keys and values head by head."""
    executor = lively("attention:8/2/2", DiscreteSpec(4))
    trace = Trace()
    network = Network(executor)
    obs = torch.from_numpy(probes(executor, 3))
    out = network.from_normalised(network.normalise(obs), trace)
    assert torch.equal(trace.layers[-1], out)
    assert len(trace.layers) == len(executor.layers)
    assert [each.shape for each in trace.relations[1]] == [(3, 2, 7, 4)] * 3


def test_an_executor_with_a_memory_asks_for_it() -> None:
    """It is no plain policy, and says what to use."""
    executor = lively("gru:6", DiscreteSpec(3))
    obs = probes(executor, 2)
    for ask in (executor, executor.outputs):
        with pytest.raises(SpecError, match="memory"):
            ask(obs)
    with pytest.raises(SpecError, match="memory"):
        Network(executor)(torch.from_numpy(obs))


def test_only_pooled_tokens_pass_through_the_last_layer() -> None:
    """The layers of an attention executor follow one another."""
    executor = lively("attention:8/2/1", DiscreteSpec(4))
    kinds = [type(layer).__name__ for layer in executor.layers]
    assert kinds == ["Tokens", "Attention", "Pool", "Dense"]
    assert isinstance(executor.layers[2], Pool)


@pytest.mark.parametrize(
    "text",
    [
        "mlp:64,64",
        "mlp:8,tanh",
        "linear",
        "cnn:16x8/4,32x4/2,128",
        "cnn:4x3,elu",
        "gru:32",
        "gru:64,32,tanh",
        "lstm:7",
        "attention:16/2/1",
    ],
)
def test_an_architecture_is_written_as_it_is_read(text: str) -> None:
    """One word says it all."""
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grru:8", "Did you mean 'gru'"),
        ("gru", "how large"),
        ("cnn:32", "how large"),
        ("cnn:4x0", "not a convolution"),
        ("cnn:4xx3", "not a convolution"),
        ("attention:16/3/1", "cannot be shared by 3 heads"),
        ("attention:16", "WIDTH/HEADS/BLOCKS"),
        ("attention:0/1/1", "WIDTH/HEADS/BLOCKS"),
        ("lstm:0", "widths from 1"),
        ("mlp:8,tanhh", "Did you mean 'tanh'"),
    ],
)
def test_what_is_no_architecture_is_refused(text: str, said: str) -> None:
    """With what is wrong, and an example."""
    with pytest.raises(ConfigError, match=said):
        parse(text)


def spec_of(*shape: int) -> Spec:
    box = BoxSpec((-1.0,), (1.0,), (1,))
    return Spec(ObsSpec((Part("", "box", shape, "float32"),)), box)


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("cnn:4x3", (7,), "needs one image"),
        ("cnn:4x9", (1, 8, 8), "does not fit an image"),
        ("attention:4/1/1", (67,), "cannot be cut"),
        ("attention:4/1/1", (1,), "cannot be cut"),
    ],
)
def test_what_does_not_suit_the_observation_is_refused(
    text: str, shape: tuple[int, ...], said: str
) -> None:
    """Before anything is trained."""
    with pytest.raises(ConfigError, match=said):
        initial(text, spec_of(*shape))


def test_frames_become_tokens() -> None:
    """A stack of frames is cut into its rows."""
    first: Executor = initial("attention:4/1/1", spec_of(3, 5))
    assert tensors(first.layers[0])["weight"].shape == (3, 4, 5)


def test_layers_that_do_not_fit_are_refused() -> None:
    """With their shapes."""
    with pytest.raises(SpecError, match="cannot be"):
        sizes(Dense(np.zeros((2, 3), np.float32), np.zeros(3, np.float32)))
