"""The part of YAML that is read and written, beside PyYAML, which the documentation brings."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.deploy.contracts.yaml import MOST_BYTES, read_yaml, write_yaml
from agentkd.errors import LoadError

SAME = [
    "a: 1\nb: [1, 2,\n  3.5]\nc:\n- x\n- y: 1\n  z: null\n- - 1\n  - 2\n",
    "d: 'it''s\n  folded: yes'\ne: plain text\n  goes on # no more\nf: {a: b, c: [1, {x: y}]}\n",
    "x: &a [1, 2]\ny: *a\nz: &b\n  k: v\nw: *b\n",
    "# c\na: # why\n  b: .inf # c\n  c: -1.5e-3\n  d: []\n  e: {}\n",
    'f: "q\\tx\n   y"\ng: "a b: c"\nh: a#b\ni: http://x/y\nj: -x\n',
    "---\n- 1\n-\n  a: 2\n- -3\n- []\n...\n",
    "a:\n  - 1\n  -   b: 2\n      c: 3\nd: ~\ne:\nf: no\n",
    "joint_names: [.*]\n'a b': 3\n\"c\": d\n1: x\n",
    "{a: 1, 'b': [x y, z], c: {}}\n",
    "a: [x y\n  z, w # no\n  , v]\nb: {c: d\n  e}\n",
    "a: 1\rb:\r  - 2\r",
    "just text\n",
    "",
]


def pyyaml() -> Any:
    """PyYAML, if it is there."""
    return pytest.importorskip("yaml")


@pytest.mark.parametrize("text", SAME)
def test_it_reads_as_pyyaml_does(text: str) -> None:
    """Keys are texts here."""
    wanted = pyyaml().safe_load(text)
    if isinstance(wanted, dict):
        wanted = {str(key): value for key, value in wanted.items()}
    assert read_yaml(text.encode(), "it") == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 010", "010"),
        ("a: -07", "-07"),
        ("a: 0", 0),
        ("a: 00.5", 0.5),
        ("a: 1e-3", 1e-3),
        ("\ufeffa: 1", 1),
    ],
)
def test_marks_and_zeros_before_a_value(text: str, value: Any) -> None:
    """A byte-order mark is none of the first key; octal or decimal, 010 is no number here."""
    assert read_yaml(text.encode(), "it") == {"a": value}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e6, 1e6)
    # 1e5 is a number in YAML 1.2, as here, and a text to PyYAML.
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).filter(
        lambda text: not re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", text.strip())
    )
    | st.sampled_from(["yes", "null", "1.5", "- a", "a: b", "# c", "'", '"', "a #b", "%x", ".inf"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, True, False]))
def test_what_pyyaml_writes_is_read(value: Any, flow: bool | None) -> None:
    """In blocks, in flows, and as simulators mix them."""
    text = pyyaml().safe_dump(value, default_flow_style=flow, sort_keys=False)
    assert read_yaml(text.encode(), "it") == value


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), VALUES, min_size=1, max_size=4
    )
)
def test_what_is_written_is_read_by_both(value: Any) -> None:
    """A dictionary of what is left after the keys' order."""
    data = write_yaml(value, "one\ntwo")
    assert data.startswith(b"# one\n# two\n")
    assert read_yaml(data, "it") == value
    assert (pyyaml().safe_load(data) or {}) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "stands twice"),
        ("{a: 1, a: 2}", "stands twice"),
        ("a: *b\n", "refers to nothing"),
        ("a: &b [*b]\n", "refers to nothing"),
        ("a: [1, 2\nb: 3\n", "neither"),
        ("a: [1, 2", "missing"),
        ("a: 'x\n", "does not end"),
        ("a: 1\n  b: 2\n", "has a value"),
        ("a:\n   b: 1\n  c: 2\n", "not indented"),
        ("\ta: 1\n", "tab"),
        ("a: [1] x\n", "has ended"),
        ("a: %x\n", "reserves"),
        ("a: b: c\n", "a colon"),
        ('a: "\\q"\n', "escape"),
        ("? a\n: b\n", "reserves"),
        ("a: &b {c: 1}\nd:\n  <<: *b\n", "merges another"),
        ("a: &b {c: 1}\nd: {<<: *b}\n", "merges another"),
        ("[" * 99, "levels deep"),
        ("- " * 99, "levels deep"),
        ("\n".join(" " * i + "a:" for i in range(99)), "levels deep"),
    ],
)
def test_what_is_not_read_is_refused_by_line(text: str, words: str) -> None:
    """The line and the text are named."""
    with pytest.raises(LoadError, match=r"it, line \d+: ") as found:
        read_yaml(text.encode(), "it")
    assert words in str(found.value)


def test_documents_have_limits() -> None:
    """Of bytes and values; and text is UTF-8."""
    with pytest.raises(LoadError, match="bytes of YAML"):
        read_yaml(b" " * (MOST_BYTES + 1), "it")
    with pytest.raises(LoadError, match="no more are read"):
        read_yaml(b"[" + b"1," * 200_000 + b"]", "it")
    doubled = "\n".join(f"k{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))
    with pytest.raises(LoadError, match="no more are read"):
        read_yaml(f"k0: &a0 [1]\n{doubled}".encode(), "it")
    with pytest.raises(LoadError, match="no text"):
        read_yaml(b"\xff\xfe", "it")


def test_tags_build_nothing() -> None:
    """What they stand before is read as it is."""
    text = b"a: !!python/object/apply:os.system ['echo']\nb: !!python/tuple\n- 1\n"
    assert read_yaml(text, "it") == {"a": ["echo"], "b": [1]}


def test_a_literal_is_a_text() -> None:
    """Its lines, without what they are indented by."""
    assert read_yaml(b"a: |\n  one\n  two\nb: 1\n", "it") == {"a": "one\ntwo", "b": 1}
