import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import DataError
from understudy.unpack import unpack

CONTENT = {"top/a.txt": b"a" * 1000, "top/deep/b.bin": os.urandom(3000), "other/c.txt": b"c"}
MOST = 10_000


def make_zip(path, content=CONTENT, change=lambda info: None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items() if isinstance(content, dict) else content:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, data)
    return path


def make_tar(path, content=CONTENT, change=lambda info: None, mode: Any = "w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in content.items() if isinstance(content, dict) else content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


@pytest.fixture(params=[make_zip, make_tar], ids=["zip", "tar"])
def make(request, tmp_path):
    def call(content=CONTENT, **options):
        return request.param(tmp_path / "archive", content, **options)

    return call


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in Path(root).rglob("*")
        if path.is_file()
    }


def refused(archive, root, message, wanted=None, **limits):
    """Nothing is left: neither in the folder nor beside it."""
    before = tree(root.parent)
    with pytest.raises(DataError, match=message) as caught:
        unpack([archive], wanted or {"": "all"}, root, **{"most_bytes": MOST, **limits})
    assert str(archive) in str(caught.value)
    assert tree(root.parent) == before
    assert not root.exists() or not list(root.iterdir())


def test_all_of_an_archive(make, tmp_path):
    unpack([make()], {"": "all"}, tmp_path / "root", most_bytes=MOST)
    assert tree(tmp_path / "root" / "all") == CONTENT
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["all"]


def test_only_what_is_wanted_under_its_new_name(make, tmp_path):
    wanted = {"top/deep": "x/y", "other/c.txt": "c"}
    unpack([make()], wanted, tmp_path / "root", most_bytes=MOST)
    assert tree(tmp_path / "root") == {"x/y/b.bin": CONTENT["top/deep/b.bin"], "c": b"c"}


def test_plain_tar_with_folders(tmp_path):
    archive = tmp_path / "plain.tar"
    with tarfile.open(archive, "w") as file:
        folder = tarfile.TarInfo("./top/empty")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        file.addfile(tarfile.TarInfo("./top/none"))
    unpack([archive], {"top": "top"}, tmp_path / "root", most_bytes=MOST)
    assert (tmp_path / "root" / "top" / "empty").is_dir()
    assert (tmp_path / "root" / "top" / "none").stat().st_size == 0


@pytest.mark.parametrize("n_parts", [2, 3, 7])
def test_an_archive_in_pieces(make, tmp_path, n_parts):
    data = make().read_bytes()
    step = -(-len(data) // n_parts)
    parts = [tmp_path / f"archive.{i:03d}" for i in range(n_parts)]
    for i, part in enumerate(parts):
        part.write_bytes(data[i * step : (i + 1) * step])
    unpack(parts, {"": "all"}, tmp_path / "root", most_bytes=MOST)
    assert tree(tmp_path / "root" / "all") == CONTENT
    with pytest.raises(DataError, match=str(parts[0])):
        unpack(parts[:-1], {"": "less"}, tmp_path / "root", most_bytes=MOST)
    assert not (tmp_path / "root" / "less").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "leaves the folder"),
        ("top/../../evil", "leaves the folder"),
        ("top/..", "leaves the folder"),
        ("/evil", "is an absolute path"),
        ("//evil", "is an absolute path"),
        ("C:/evil", "is an absolute path"),
        ("..\\evil", "a NUL or a backslash"),
        ("top/a.txt", "is there twice"),
        ("top/a.txt/b", "is there twice, or inside a file"),
    ],
)
def test_names_that_are_refused(make, tmp_path, name, message):
    archive = make([*CONTENT.items(), (name, b"evil")])
    refused(archive, tmp_path / "root", message)


def test_bad_names_are_refused_though_not_wanted(make, tmp_path):
    archive = make({**CONTENT, "../evil": b"evil"})
    refused(archive, tmp_path / "root", "leaves", wanted={"top": "top"})


KINDS = {
    tarfile.SYMTYPE: "is a link",
    tarfile.LNKTYPE: "is a link",
    tarfile.FIFOTYPE: "is a special file",
    tarfile.CHRTYPE: "is a special file",
    tarfile.GNUTYPE_SPARSE: "is a special file",
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_links_and_devices_of_tar_are_refused(tmp_path, kind):
    def change(info):
        if info.name == "top/link":
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    archive = make_tar(tmp_path / "a", {**CONTENT, "top/link": b""}, change)
    refused(archive, tmp_path / "root", KINDS[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is a special file")],
)
def test_links_and_devices_of_zip_are_refused(tmp_path, kind, message):
    def change(info):
        if info.filename == "top/link":
            info.external_attr = (kind | 0o777) << 16

    archive = make_zip(tmp_path / "a", {**CONTENT, "top/link": b"/etc/passwd"}, change)
    refused(archive, tmp_path / "root", message)


def test_a_file_behind_a_link_stays_inside(tmp_path):
    """The classic pair: a link out of the folder, then a file through it."""

    def change(info):
        if info.name == "way":
            info.type, info.linkname, info.size = tarfile.SYMTYPE, str(tmp_path), 0

    archive = make_tar(tmp_path / "a", {"way": b"", "way/evil": b"evil"}, change)
    refused(archive, tmp_path / "root", "'way' is a link")


def test_declared_bombs_are_refused(make, tmp_path):
    archive = make({"a": bytes(6000), "b": bytes(6000)})
    refused(archive, tmp_path / "root", "holds more than forecast: 12000 bytes in 2 entries")
    refused(archive, tmp_path / "root", "size bomb", wanted={"a": "a"})


def test_too_many_entries_are_refused(make, tmp_path):
    archive = make({f"{i}": b"" for i in range(20)})
    refused(archive, tmp_path / "root", "in 11 entries", most_entries=10)


def test_a_zip_that_declares_less_than_it_holds(tmp_path):
    archive = make_zip(tmp_path / "a", {"bomb": bytes(5_000_000)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(archive, tmp_path / "root", "damaged at 'bomb'")


def test_a_tar_header_that_wants_all_memory(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**31
    archive = tmp_path / "a"
    archive.write_bytes(gzip.compress(header.tobuf() + bytes(10_000)))
    refused(archive, tmp_path / "root", "in one piece; refused")


def test_a_stream_of_zeros_ends(tmp_path):
    """Entries that are not wanted are read over; their bytes count all the same."""
    header = tarfile.TarInfo("a")
    header.size = 5000
    archive = tmp_path / "a"
    entry = header.tobuf() + bytes(5120)
    archive.write_bytes(gzip.compress(entry * 30_000, 1))
    refused(archive, tmp_path / "root", "size bomb", wanted={"b": "b"}, most_bytes=10**6)


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_damaged_header_is_not_the_end(tmp_path, mode):
    archive = make_tar(tmp_path / "a", mode=mode)
    data = archive.read_bytes() if mode == "w" else gzip.decompress(archive.read_bytes())
    at = data.index(b"other/c.txt")
    data = data[:at] + b"X" + data[at + 1 :]
    archive.write_bytes(data if mode == "w" else gzip.compress(data))
    refused(archive, tmp_path / "root", "damaged: no entry and no end")


def test_a_wrong_checksum_of_gzip(tmp_path):
    archive = make_tar(tmp_path / "a")
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1
    archive.write_bytes(data)
    refused(archive, tmp_path / "root", "damaged: CRC")


def test_encrypted_entries_are_refused(tmp_path):
    archive = make_zip(tmp_path / "a")
    data = bytearray(archive.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flags] |= 1
    archive.write_bytes(data)
    refused(archive, tmp_path / "root", "encrypted")


def test_something_wanted_that_is_not_in_it(make, tmp_path):
    refused(make(), tmp_path / "root", "lacks 'annotations'", wanted={"annotations": "x"})


def test_what_is_there_is_not_replaced(make, tmp_path):
    (tmp_path / "root" / "all").mkdir(parents=True)
    with pytest.raises(DataError, match="is there already"):
        unpack([make()], {"": "all"}, tmp_path / "root", most_bytes=MOST)
    assert not list((tmp_path / "root" / "all").iterdir())


def test_remains_of_a_killed_run_are_swept(make, tmp_path):
    left = tmp_path / "root" / ".unpacking" / "0" / "top"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    unpack([make()], {"": "all"}, tmp_path / "root", most_bytes=MOST)
    assert tree(tmp_path / "root") == {f"all/{name}": data for name, data in CONTENT.items()}


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from([make_zip, make_tar]), data=st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory, kind, data):
    """Any damaged archive unpacks inside its folder, or is a DataError and leaves nothing."""
    place = tmp_path_factory.mktemp("damage")
    content = bytearray(kind(place / "archive").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    (place / "archive").write_bytes(content)
    try:
        unpack([place / "archive"], {"": "all"}, place / "root", most_bytes=MOST)
    except DataError:
        assert not (place / "root" / "all").exists()
    assert {path.name for path in place.iterdir()} <= {"archive", "root"}
    assert {path.name for path in (place / "root").iterdir()} <= {"all"}
