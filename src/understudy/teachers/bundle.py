"""Weights in one file, to be carried to machines without a network.

A bundle is a plain tar: `manifest.json`, then the files that it lists. Unpacking trusts none of
it: names are those of the built-in cards, sizes and digests the manifest's and the cards'.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from understudy import config
from understudy.errors import ConfigError, UnderstudyError, WeightsError
from understudy.teachers import library
from understudy.teachers.card import TeacherCard
from understudy.teachers.cards import CARDS

MANIFEST = "manifest.json"
FORMAT = 1
MOST_MANIFEST_BYTES = 2**20
MOST_FILE_BYTES = 2**33
BLOCK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of weights in a bundle."""

    teacher: str
    file: str
    bytes: int
    sha256: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle holds."""

    format: int
    files: tuple[Entry, ...]


def pack(cards: Sequence[TeacherCard], out: Path) -> list[Entry]:
    """Writes the published weights of `cards`, fetched where they are not here, to `out`.

    Raises:
        ConfigError: A teacher without published weights, or a licence yet to be agreed to.
        WeightsError: `out` exists or cannot be written, or weights cannot be had.
    """
    if out.exists():
        raise WeightsError(f"{out}: exists already")
    entries, paths = [], []
    for card in dict.fromkeys(cards):
        if card.weights_file is None:
            raise ConfigError(f"teacher {card.name} needs no weights: nothing to pack")
        path = library.obtain(card)
        entries.append(
            Entry(
                teacher=card.name,
                file=card.weights_file,
                bytes=path.stat().st_size,
                sha256=library.confirm(card, path),
                licence=card.licence_weights,
            )
        )
        paths.append(path)
    text = json.dumps(asdict(Manifest(format=FORMAT, files=tuple(entries))), indent=2).encode()
    part = out.with_name(out.name + ".part")
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            for entry, path in zip(entries, paths, strict=True):
                with path.open("rb") as file:
                    tar.addfile(_member(entry.file, entry.bytes), file)
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WeightsError(f"{out}: cannot be written ({error.strerror or error})") from None
    return entries


def unpack(bundle: Path, accept_licence: bool = False) -> list[Entry]:
    """Puts the files of `bundle` where published weights are kept; all of them, or none.

    Raises:
        ConfigError: A licence yet to be agreed to (without `accept_licence`).
        WeightsError: No bundle, one that is damaged or holds what it should not, or a file that
            differs from the one that is here.
    """
    try:
        with tarfile.open(bundle, "r:") as tar, ExitStack() as stack:
            entries = _manifest(tar, bundle)
            for entry in entries:
                if accept_licence:
                    library.consent(CARDS[entry.teacher])
                library.require_consent(CARDS[entry.teacher])
            library.folder().mkdir(parents=True, exist_ok=True)
            arrived = _arrive(tar, bundle, {entry.file: entry for entry in entries}, stack)
            for entry in entries:
                place, part = library.folder() / entry.file, arrived[entry.file]
                here = place if place.exists() else part
                if library.confirm(CARDS[entry.teacher], here) != entry.sha256:
                    raise WeightsError(f"{place}: not the file of {bundle}; remove either")
            for entry in entries:
                if not (library.folder() / entry.file).exists():
                    arrived[entry.file].replace(library.folder() / entry.file)
    except (tarfile.TarError, EOFError) as error:
        raise WeightsError(f"{bundle}: wanted a bundle (tar), found {error}") from None
    except OSError as error:
        what = error.filename or bundle
        raise WeightsError(f"{what}: {error.strerror or error}") from None
    return list(entries)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # owner, mode and date are those of nobody in particular
    member.size = size
    return member


def _manifest(tar: tarfile.TarFile, bundle: Path) -> tuple[Entry, ...]:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg():
        raise WeightsError(f"{bundle}: wanted {MANIFEST} as its first file, found "
                           f"{first.name if first else 'nothing'}")  # fmt: skip
    if first.size > MOST_MANIFEST_BYTES:
        raise WeightsError(f"{bundle}: a manifest of {first.size} bytes is too large")
    try:
        content = json.loads(_open(tar, first).read())
        manifest = config.from_mapping(Manifest, content, f"{bundle}: {MANIFEST}")
    except (UnderstudyError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(f"{bundle}: {MANIFEST} cannot be used ({error})") from None
    if manifest.format != FORMAT:
        raise WeightsError(f"{bundle}: wanted format {FORMAT}, found {manifest.format}")
    for entry in manifest.files:
        card = CARDS.get(entry.teacher)
        if card is None or card.weights_file != entry.file:
            raise WeightsError(f"{bundle}: '{entry.file}' is no teacher's file of weights")
        known = card.weights_bytes in (None, entry.bytes)
        if not (known and 0 < entry.bytes <= MOST_FILE_BYTES):
            raise WeightsError(f"{bundle}: '{entry.file}' cannot have {entry.bytes} bytes")
    if len({entry.file for entry in manifest.files}) < len(manifest.files):
        raise WeightsError(f"{bundle}: a file is listed twice")
    return manifest.files


def _arrive(
    tar: tarfile.TarFile, bundle: Path, wanted: dict[str, Entry], stack: ExitStack
) -> dict[str, Path]:
    """Verified copies of the files, by name, that go when `stack` closes."""
    arrived: dict[str, Path] = {}
    while (member := tar.next()) is not None:
        entry = wanted.get(member.name)
        if entry is None or not member.isreg() or member.name in arrived:
            raise WeightsError(f"{bundle}: '{member.name}' does not belong into it")
        if member.size != entry.bytes:
            raise WeightsError(
                f"{bundle}: '{entry.file}' has {member.size} bytes, its manifest says {entry.bytes}"
            )
        part = library.folder() / f"{entry.file}.unpacked"
        stack.callback(part.unlink, missing_ok=True)
        digest = hashlib.sha256()
        source = _open(tar, member)
        with part.open("wb") as file:
            while block := source.read(BLOCK_BYTES):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != entry.sha256:
            raise WeightsError(
                f"{bundle}: '{entry.file}' is damaged: sha256 {digest.hexdigest()}, its manifest "
                f"says {entry.sha256}"
            )
        arrived[entry.file] = part
    if missing := wanted.keys() - arrived.keys():
        raise WeightsError(f"{bundle}: lacks {', '.join(sorted(missing))}")
    return arrived


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file
