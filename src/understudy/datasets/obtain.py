"""Brings a published dataset to a folder: what is there already, then local copies, then fetching.

Archives that were fetched are kept in `.downloads` of that folder until they are unpacked, so that
an interrupted run goes on where it stopped. Local copies are only read.
"""

import shutil
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy import fetch
from understudy.datasets.release import Release, Remote, Source
from understudy.disk import free_bytes
from understudy.errors import DataError
from understudy.unpack import unpack

_DOWNLOADS = ".downloads"
_MOST_FACTOR = 2


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is still to be done, and what it takes."""

    fetched: tuple[str, ...]
    """Names of files to download."""
    local: tuple[Path, ...]
    """Copies that save a download."""
    download_bytes: int
    """About; what earlier runs fetched is taken off."""
    disk_bytes: int
    """About, at most at any time: downloads and what is unpacked from them."""
    free_bytes: int


def forecast(release: Release, root: Path, local: Sequence[Path] = ()) -> Forecast:
    """What `obtain` would do with the same arguments."""
    fetched, copies = [], []
    download_bytes = disk_bytes = 0
    for source in _missing(release, root):
        disk_bytes += source.unpacked_bytes
        for remote in source.files:
            copy = _local(remote, root, local)
            if copy:
                copies.append(copy)
                disk_bytes += 0 if source.takes else copy.stat().st_size
            else:
                fetched.append(remote.name)
                part = _place(source, remote, root).with_name(f"{remote.name}.part")
                here = part.stat().st_size if part.exists() else 0
                download_bytes += max(0, remote.about_bytes - here)
    return Forecast(
        fetched=tuple(fetched),
        local=tuple(copies),
        download_bytes=download_bytes,
        disk_bytes=disk_bytes + download_bytes,
        free_bytes=free_bytes(root),
    )


def obtain(
    release: Release,
    root: Path,
    *,
    local: Sequence[Path] = (),
    mirrors: Sequence[str] = (),
    keep: bool = False,
    retries: int = 5,
    progress: bool = True,
) -> None:
    """Completes the release at `root`; what is there is not touched.

    Args:
        release: What to bring.
        root: Folder of the dataset; made where it is missing.
        local: Folders to look in for published files, under their published names.
        mirrors: Addresses of folders that hold them; tried before the authors' own.
        keep: Keep the archives that were fetched.
        retries: As of `fetch.download`.
        progress: Show bars where stderr is a terminal.

    Raises:
        DataError: No space, a file that cannot be had or is another, or a refused archive.
    """
    ahead = forecast(release, root, local)
    if ahead.disk_bytes > ahead.free_bytes:
        raise DataError(
            f"{root}: about {ahead.disk_bytes / 1e9:.1f} GB are wanted, "
            f"{ahead.free_bytes / 1e9:.1f} GB are free"
        )
    for source in _missing(release, root):
        paths = [
            _bring(source, remote, root, local, mirrors, retries, progress)
            for remote in source.files
        ]
        if source.takes:
            wanted = {
                inside: outside
                for inside, outside in source.takes.items()
                if not (root / outside).exists()
            }
            most_bytes = _MOST_FACTOR * source.unpacked_bytes
            unpack(paths, wanted, root, most_bytes=most_bytes, progress=progress)
            if not keep:
                for path in paths:
                    if path.parent == root / _DOWNLOADS:
                        path.unlink()
    downloads = root / _DOWNLOADS
    if downloads.is_dir() and not any(downloads.iterdir()):
        downloads.rmdir()


def _missing(release: Release, root: Path) -> Iterator[Source]:
    for source in release.sources:
        if not all((root / name).exists() for name in source.brings):
            yield source


def _place(source: Source, remote: Remote, root: Path) -> Path:
    return root / _DOWNLOADS / remote.name if source.takes else root / remote.name


def _local(remote: Remote, root: Path, local: Sequence[Path]) -> Path | None:
    for folder in (*local, root, root / _DOWNLOADS):
        if (folder / remote.name).is_file():
            return folder / remote.name
    return None


def _bring(
    source: Source,
    remote: Remote,
    root: Path,
    local: Sequence[Path],
    mirrors: Sequence[str],
    retries: int,
    progress: bool,
) -> Path:
    """The published file, verified: an archive wherever it lies, another file in its place."""
    place = _place(source, remote, root)
    copy = _local(remote, root, local)
    name = urllib.parse.quote(remote.name)
    urls = [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors] + list(remote.urls)
    failures = []
    for url in urls:
        try:
            path = fetch.download(
                url, copy or place, md5=remote.md5, sha1=remote.sha1, retries=retries,
                progress=progress,
            )  # fmt: skip
            break
        except DataError as error:
            if copy:
                raise
            failures.append(str(error))
    else:
        raise DataError(f"{remote.name}: {'; '.join(failures)}")
    if source.takes or path == place:
        return path
    part = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, part)
        part.replace(place)
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)
    return place
