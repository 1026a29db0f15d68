"""Splits of clips into training, validation and test."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.sounds import sound

from understudy import datasets
from understudy.datasets.splits import grouped_split, stratified_split


@given(
    keys=st.lists(st.text(max_size=2), max_size=60),
    seed=st.integers(0, 2**40),
    weights=st.tuples(*[st.integers(0, 5)] * 3).filter(any),
    data=st.data(),
)
def test_no_group_lies_in_two_splits(keys, seed, weights, data):
    fractions = [w / sum(weights) for w in weights]
    parts = grouped_split(keys, fractions, seed)
    placed = dict(zip(keys, parts, strict=True))
    assert all(placed[key] == part for key, part in zip(keys, parts, strict=True))
    asked = {p for p, w in zip(("train", "valid", "test"), weights, strict=True) if w}
    assert set(parts) <= asked
    if len(placed) >= len(asked):
        assert set(parts) == asked
    order = data.draw(st.permutations(range(len(keys))))
    shuffled = grouped_split([keys[i] for i in order], fractions, seed)
    assert shuffled == [parts[i] for i in order]


def test_single_clips_are_split_by_the_fractions():
    keys = [f"clip {i}" for i in range(1000)]
    parts = grouped_split(keys)
    assert [parts.count(p) for p in ("train", "valid", "test")] == [800, 100, 100]
    assert grouped_split(keys, seed=1) != parts
    assert grouped_split(keys) == parts


@given(
    clips=st.lists(st.tuples(st.text("ab", max_size=4), st.integers(0, 4)), max_size=60),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_a_stratified_split_keeps_groups_and_needs_no_order(clips, seed, data):
    keys, classes = [key for key, _ in clips], [label for _, label in clips]
    parts = stratified_split(keys, classes, seed=seed)
    placed = dict(zip(keys, parts, strict=True))
    assert all(placed[key] == part for key, part in zip(keys, parts, strict=True))
    if len(placed) >= 3:
        assert set(parts) == {"train", "valid", "test"}
    order = data.draw(st.permutations(range(len(keys))))
    shuffled = stratified_split([keys[i] for i in order], [classes[i] for i in order], seed=seed)
    assert shuffled == [parts[i] for i in order]


@given(sizes=st.lists(st.integers(3, 40), min_size=1, max_size=8), seed=st.integers(0, 2**40))
def test_single_clips_are_split_class_by_class(sizes, seed):
    classes = [label for label, size in enumerate(sizes) for _ in range(size)]
    parts = stratified_split([f"clip {i}" for i in range(len(classes))], classes, seed=seed)
    for label, size in enumerate(sizes):
        for part, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
            count = sum(p == part and c == label for p, c in zip(parts, classes, strict=True))
            assert abs(count - share * size) <= 2


def test_a_folder_of_ten_clips_a_class_is_split_alike_in_each(tmp_path):
    for label in "abc":
        for i in range(10):
            sound(tmp_path / label / f"{i}.wav")
    split = datasets.load("folder", tmp_path, classes_from="folders").split()
    labels = np.repeat(range(3), 10)
    assert np.bincount(labels[split.train]).tolist() == [8, 8, 8]
    assert labels[split.valid].tolist() == labels[split.test].tolist() == [0, 1, 2]
