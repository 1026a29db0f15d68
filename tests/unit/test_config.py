"""Settings: strict keys and types, precedence, canonical digests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy import config
from understudy.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-4
    steps: int = 10
    kind: Literal["adam", "sgd"] = "adam"
    clip: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    optim: Optim = field(default_factory=Optim)
    widths: tuple[int, ...] = (1, 2)
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: float = 1.0
    """In metres."""
    kind: Literal["a", "b"] = "a"
    """Of
    what."""
    bare: int = 0

    def __post_init__(self) -> None:
        """No field's."""


@dataclass(frozen=True, kw_only=True)
class Outer(Inner):
    size: float = 3.3
    """In feet, and longer."""
    inner: Inner = field(default_factory=Inner)


def test_nested_values_are_coerced_and_round_trip() -> None:
    recipe = config.from_mapping(
        Recipe, {"name": "a", "optim": {"lr": "3e-3", "steps": 5.0, "clip": None}, "widths": [4]}
    )
    assert recipe.optim == Optim(lr=3e-3, steps=5, clip=None)
    assert recipe.widths == (4,)
    assert config.from_mapping(Recipe, config.to_mapping(recipe)) == recipe


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"nam": "a"}, "unknown key 'nam'; did you mean 'name'"),
        ({}, "missing name"),
        ({"name": 3}, 'name: wanted str, found 3; in quotes it is one: "3"'),
        ({"name": "a", "optim": {"lr": True}}, "wanted float, found True"),
        ({"name": "a", "optim": {"steps": 1.5}}, "wanted int, found 1.5"),
        ({"name": "a", "optim": {"kind": "adm"}}, "did you mean 'adam'"),
        ({"name": "a", "optim": 3}, "wanted a mapping"),
        ({"name": "a", "widths": "12"}, "wanted a list"),
    ],
)
def test_what_is_wrong_is_named(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_mapping(Recipe, mapping)


def test_what_is_written_below_fields_is_found() -> None:
    assert config.documented(Inner) == {"size": "In metres.", "kind": "Of what. One of a, b."}
    assert config.documented(Outer) == {
        "size": "In feet, and longer.",
        "kind": "Of what. One of a, b.",
        "inner.size": "In metres.",
        "inner.kind": "Of what. One of a, b.",
    }


def test_overrides_nest_and_read_yaml() -> None:
    assert config.overrides(["a.b=1", "a.c=[1, 2]", "d=null", "e=x=y"]) == {
        "a": {"b": 1, "c": [1, 2]},
        "d": None,
        "e": "x=y",
    }


@pytest.mark.parametrize("text", ["a", "=3", "a=[1", "a.b.c=1"])
def test_bad_overrides_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.overrides(["a.b=1", text])
    assert text in str(caught.value)
    assert "--set" not in str(caught.value)  # options of other names take the same


def test_later_layers_win_and_inputs_stay() -> None:
    low = {"a": {"b": 1, "c": 2}}
    assert config.merged(low, {"a": {"b": 3}}, {"d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert low == {"a": {"b": 1, "c": 2}}


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=5))
def test_digest_ignores_order(mapping: dict[str, object]) -> None:
    shuffled = dict(reversed(mapping.items()))
    assert config.digest(mapping) == config.digest(shuffled)


def test_digest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        config.digest({"a": float("nan")})


@pytest.mark.parametrize("value", ["a/b", Path("a/b")])
def test_a_path_may_come_as_text_or_as_a_path(value: str | Path) -> None:
    assert config.from_mapping(Recipe, {"name": "a", "out": value}).out == Path("a/b")
