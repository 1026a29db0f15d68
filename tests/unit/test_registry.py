"""Lazy registries."""

import pytest

from understudy.errors import ConfigError, nearest
from understudy.registry import Registry


def test_entries_are_imported_on_demand() -> None:
    registry = Registry("number", {"pi": "math:pi", "absent": "no.such.module:thing"})
    assert registry.names() == ["pi", "absent"]
    assert registry.get("pi") == pytest.approx(3.14159, abs=1e-5)


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown number 'pj'; did you mean 'pi'"):
        Registry("number", {"pi": "math:pi"}).get("pj")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("mno4", "mn04"), ("MN4O", "mn40"), ("mnl0", "mn10"), ("mn050", "mn05"), ("zzz", None)],
)
def test_look_alikes_are_nearest(name: str, wanted: str | None) -> None:
    assert nearest(name, ["mn40", "mn10", "mn05", "mn04"]) == wanted


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="already math:pi"):
        Registry("number", {"pi": "math:pi"}).add("pi", "math:tau")
