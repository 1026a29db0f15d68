import errno
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.cache import files
from understudy.errors import CacheError

PIECES = st.lists(st.binary(max_size=9), max_size=9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PIECES, st.integers(1, 7), st.integers(1, 20))
def test_pieces_are_written_whole_whatever_the_system_takes_at_once(
    tmp_path, monkeypatch, pieces, at_once, call_bytes
):
    def some(handle, buffers):
        return os.write(handle, b"".join(buffers)[:at_once])

    path = tmp_path / "file"
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", some)
        patch.setattr(files, "CALL_BYTES", call_bytes)
        patch.setattr(files, "MOST_PIECES", 3)
        files.write_all({path: iter(pieces)})
    assert path.read_bytes() == b"".join(pieces)


def test_a_flush_that_fails_on_the_way_is_not_forgotten(tmp_path, monkeypatch):
    """The system tells of it once: the flush after it succeeds."""
    sync, failed = os.fsync, []

    def fail_once(handle):
        if not failed:
            failed.append(handle)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail_once)
    monkeypatch.setattr(files, "CALL_BYTES", 4)
    with pytest.raises(CacheError, match=r"cannot write .*Input/output error"):
        files.write_all({tmp_path / "file": [b"12345", b"67890"]})
    assert list(tmp_path.iterdir()) == []
