from pathlib import Path

import pytest
import yaml
from tests import stores

from understudy import schema
from understudy.errors import CacheError, ConfigError

TEXT = Path(schema.__file__).with_name("cache_schema.yaml").read_text(encoding="utf-8")
CONTRACT = schema.load()


def attributes(kind: str = "embedding", **changes):
    return {**stores.track(kind).store_attributes(complete=True), **changes}


@pytest.mark.parametrize("kind", ["embedding", "audio"])
def test_attributes_of_a_track_satisfy_the_schema(kind):
    assert CONTRACT.check_attributes(attributes(kind), "store").name == kind


def test_newer_version_is_refused_by_name_before_anything_else():
    with pytest.raises(
        CacheError,
        match=f"^S: schema version 9 is newer than the {CONTRACT.version} this understudy knows",
    ):
        CONTRACT.check_attributes({"schema_version": 9, "from_the_future": 1}, "S")


@pytest.mark.parametrize("version", [None, "1", 0, 1.0, True])
def test_what_is_no_version_is_no_store(version):
    with pytest.raises(CacheError, match="not an understudy store"):
        CONTRACT.check_attributes({"schema_version": version}, "S")


def test_unknown_attribute_names_the_nearest():
    with pytest.raises(CacheError, match=r"unknown attribute 'licence_weight'.*'licence_weights'"):
        CONTRACT.check_attributes(attributes(licence_weight="MIT"), "S")


def test_attribute_of_another_kind_is_unknown():
    with pytest.raises(CacheError, match="unknown attribute 'hop_s'"):
        CONTRACT.check_attributes(attributes("audio", hop_s=1.0), "S")


def test_missing_attribute_is_named():
    incomplete = attributes()
    del incomplete["hop_s"]
    with pytest.raises(CacheError, match="missing attribute hop_s"):
        CONTRACT.check_attributes(incomplete, "S")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hop_s", "fast"),
        ("hop_s", float("nan")),
        ("hop_s", True),
        ("sample_rate", 16000.0),
        ("complete", 1),
        ("training_data", "AudioSet"),
        ("training_data", [1]),
        ("provenance", []),
        ("provenance", {"path": Path("x")}),
        ("provenance", {"seconds": float("inf")}),
        ("dtype", "int16"),
        ("kind", "video"),
    ],
)
def test_wrong_value_is_refused(name, value):
    with pytest.raises(CacheError):
        CONTRACT.check_attributes(attributes(**{name: value}), "S")


def test_literal_alternative_is_accepted():
    CONTRACT.check_attributes(attributes(window_s="clip"), "S")


def test_every_attribute_and_array_has_a_meaning_and_known_unit_field():
    for kind in CONTRACT.kinds.values():
        for array in kind.arrays.values():
            assert array.meaning
            assert array.unit
            assert CONTRACT.array_attribute_values(array)["meaning"] == array.meaning
    assert all(attribute.meaning for attribute in CONTRACT.attributes.values())


def test_status_is_written_last():
    for kind in CONTRACT.kinds.values():
        assert list(kind.arrays)[-1] == "status"


@pytest.mark.parametrize(
    ("n_clips", "clip_bytes", "wanted"),
    [
        (400, 46080, 7),
        (1, 46080, 1),
        (64, 46080, 1),
        (65, 1, 2),
        (10**6, 46080, 2777),
        (9, 10**9, 1),
    ],
)
def test_shard_rule(n_clips, clip_bytes, wanted):
    assert CONTRACT.clips_per_shard(n_clips, clip_bytes) == wanted


def test_status_codes_by_name():
    assert CONTRACT.status_name(CONTRACT.code("ok")) == "ok"
    assert CONTRACT.status_name(200) == "unknown (200)"
    with pytest.raises(CacheError, match="unknown status 'okay'; did you mean 'ok'"):
        CONTRACT.code("okay")


def changed(**replacements):
    return yaml.safe_dump({**yaml.safe_load(TEXT), **replacements})


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "schema_version: 1",
        "just text",
        changed(kinds={"embedding": {"meaning": "m"}}),
        changed(attributes={"x": {"type": "string", "meaning": "m", "colour": "red"}}),
        changed(attributes={"x": {"type": "colour", "meaning": "m"}}),
        changed(sizes={"n_clips": "clips"}),
    ],
)
def test_malformed_schema_is_refused(text):
    with pytest.raises(ConfigError):
        schema.parse(text)
