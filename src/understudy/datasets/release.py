"""What is known about a published dataset before any of it is here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MISSING, CORRUPT, SHORT, DAMAGED = "missing", "corrupt", "short", "damaged"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One published file."""

    name: str
    urls: tuple[str, ...]
    """In order of preference."""
    about_bytes: int
    """For the forecast; not held against it."""
    md5: str | None = None
    sha1: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What brings some of the release to its place: a file, or an archive in one or more pieces."""

    files: tuple[Remote, ...]
    takes: Mapping[str, str] = field(default_factory=dict)
    """Of an archive: its file or folder ("" is all of it) -> where it belongs under the root."""
    unpacked_bytes: int = 0
    """Forecast of all the archive holds; twice as much is refused."""

    @property
    def brings(self) -> tuple[str, ...]:
        """Files and folders under the root."""
        return tuple(self.takes.values()) or tuple(file.name for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published dataset."""

    homepage: str
    licence: str
    citation: str
    sources: tuple[Source, ...]
    n_clips: Mapping[str, int]
    """By the names under which datasets of it are loaded."""
    shortest_s: float
    """A clip below it is short."""
    known_bad: Mapping[str, str] = field(default_factory=dict)
    """clip_id -> what is known to be wrong with it wherever the release was downloaded."""
