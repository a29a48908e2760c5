"""One check of numbers says which option is outside which bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentkd.errors import ConfigError, check_range, did_you_mean


@pytest.mark.parametrize(
    ("value", "bounds", "wanted"),
    [
        (0, {"least": 1}, "at least 1"),
        (0.0, {"above": 0}, "above 0"),
        (100, {"least": 1, "most": 99}, "at least 1 and at most 99"),
        (1.0, {"least": 0, "below": 1}, "at least 0 and below 1"),
        (math.inf, {"above": 0, "below": math.inf}, "above 0 and finite"),
        (math.nan, {"most": 1}, "at most 1"),
    ],
)
def test_a_number_outside_is_refused_with_its_bounds(
    value: float, bounds: dict[str, Any], wanted: str
) -> None:
    """The message has the option's name, its value, the bounds and the hint."""
    with pytest.raises(ConfigError) as found:
        check_range("size", value, **bounds, hint="Try 8.")
    assert str(found.value) == f"size is {value}; it has to be {wanted}. Try 8."


def test_what_is_within_or_left_out_passes() -> None:
    """Bounds of `least` and `most` are allowed; None is an option that was not given."""
    check_range("size", 1, least=1, most=1)
    check_range("size", 0.5, above=0, below=math.inf)
    check_range("size", None, least=1)


@pytest.mark.parametrize("value", ["8", [8], {}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    """Comparing it would raise an error that names no option."""
    with pytest.raises(
        ConfigError, match=r"size is .*; it has to be a number, at least 1\. Try 8\."
    ):
        check_range("size", value, least=1, hint="Try 8.")


def test_of_many_known_names_some_are_told() -> None:
    """A message stays readable where a module has hundreds of names."""
    said = did_you_mean("zzz", [f"name{i:03d}" for i in range(300)])
    assert said.endswith("'name039' and 260 more.")
    assert did_you_mean("zzz", ["a", "b"]) == " Known: 'a', 'b'."
