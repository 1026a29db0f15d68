import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.cache import layout
from understudy.errors import CacheError


def random_rows(shape, dtype, seed):
    """Any bits, NaN with odd payloads included."""
    size = np.dtype(dtype).itemsize
    octets = np.random.default_rng(seed).integers(0, 256, (*shape, size), dtype=np.uint8)
    return octets.view(dtype)[..., 0]


ROWS = st.builds(
    random_rows,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
    st.sampled_from(["<f2", "<f4", "<i2", "<u8"]),
    st.integers(0, 2**32),
)


def encode(rows, slots):
    crcs = np.zeros(len(rows), "<u4")
    index = layout.shard_index(len(rows), rows[0].nbytes, slots)
    file = b"".join(layout.shard_parts(rows, crcs, index))
    assert (crcs == layout.row_crcs(rows)).all()
    return file


@given(ROWS, st.integers(0, 3))
def test_shard_round_trip(rows, empty_slots):
    slots = len(rows) + empty_slots
    file = encode(rows, slots)
    offset, length = layout.decode_footer(file, slots, "f")
    assert (offset[len(rows) :] == -1).all()
    for row, at, n in zip(rows, offset, length, strict=False):
        assert bytes(layout.without_crc(file[at : at + n], "f")) == row.tobytes()


@given(ROWS, st.data())
def test_any_flipped_bit_is_found(rows, data):
    file = bytearray(encode(rows, len(rows)))
    bit = data.draw(st.integers(0, 8 * len(file) - 1))
    file[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CacheError):
        read_all(bytes(file), len(rows))


@given(ROWS, st.data())
def test_any_truncation_is_found(rows, data):
    file = encode(rows, len(rows))
    cut = data.draw(st.integers(0, len(file) - 1))
    with pytest.raises(CacheError):
        read_all(file[:cut], len(rows))


def read_all(file, slots):
    for at, n in zip(*layout.decode_footer(file, slots, "f"), strict=True):
        layout.without_crc(file[at : at + n], "f")


@given(ROWS, st.integers(0, 3))
def test_chunk_round_trip_fills_what_is_lacking(rows, lacking):
    shape = (len(rows) + lacking, *rows.shape[1:])
    file = layout.encode_chunk(rows, shape, 0)
    values = layout.decode_chunk(file, shape, rows.dtype.name, "f")
    assert values[: len(rows)].tobytes() == rows.tobytes()
    assert not values[len(rows) :].any()


def test_chunk_of_another_size_is_refused():
    file = layout.encode_chunk(np.zeros(3, np.uint8), (4,), 0)
    with pytest.raises(CacheError, match="wanted 5 bytes, found 4"):
        layout.decode_chunk(file, (5,), "uint8", "f")


def test_index_that_points_outside_the_file_is_refused():
    index = np.array([[100, 8]], "<u8")
    with pytest.raises(CacheError, match="outside the file"):
        layout.decode_footer(layout.with_crc(index.tobytes()), 1, "f")
