"""Published weights on this machine: where they are kept, whence they come, on what terms.

All of it lies in UNDERSTUDY_HOME/weights. A file that is there is never fetched again. Where its
authors publish no sha256, the one of the first copy is recorded and later copies are held to it.
"""

import fcntl
import hashlib
import json
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from understudy import fetch
from understudy.errors import ConfigError, UnderstudyError, WeightsError
from understudy.teachers.card import TeacherCard

MIRROR = "UNDERSTUDY_MIRROR"
"""Environment variable: address of a folder that holds published files under their own names."""

KNOWN = "known.json"
LICENCES = "licences.json"


def folder() -> Path:
    """Where published files are kept."""
    return fetch.home() / "weights"


def published(card: TeacherCard) -> Path | None:
    """Where the published file of `card` is kept here, present or not; None if it has none."""
    return None if card.weights_file is None else folder() / card.weights_file


def locate(card: TeacherCard, given: Any = None) -> Path:
    """The file of weights of `card`: `given`, or else the published one, fetched if it is not here.

    Raises:
        ConfigError: Its licence has yet to be agreed to.
        WeightsError: It cannot be had, or is not what it was.
    """
    return Path(given) if given is not None else obtain(card)


def obtain(card: TeacherCard, mirror: str | None = None, progress: bool = True) -> Path:
    """The published file of `card`, from here, from `mirror` or from its authors; see `locate`.

    Args:
        card: The teacher's.
        mirror: Address of a folder of published files, by default the environment's; the authors'
            own address comes after it.
        progress: Show a bar where stderr is a terminal.
    """
    path = published(card)
    way = f"get the file by other means and name it with --weights {card.name}=PATH"
    if path is None or card.url is None:
        raise WeightsError(f"teacher {card.name} has no published weights; {way}")
    require_consent(card)
    wanted, url = digest(card), None
    if not path.exists():
        failures = []
        for url in _sources(card, mirror):
            try:
                fetch.download(url, path, sha256=wanted, size=card.weights_bytes, progress=progress)
                break
            except (UnderstudyError, OSError) as error:
                failures.append(str(error))
        else:
            raise WeightsError(f"weights of teacher {card.name}: {'; '.join(failures)}; {way}")
    confirm(card, path, url)
    return path


def _sources(card: TeacherCard, mirror: str | None) -> list[str]:
    mirror = mirror or os.environ.get(MIRROR)
    assert card.weights_file is not None
    assert card.url is not None
    name = urllib.parse.quote(card.weights_file)
    return ([f"{mirror.rstrip('/')}/{name}"] if mirror else []) + [card.url]


def digest(card: TeacherCard) -> str | None:
    """sha256 that the published file must have: by the card, or as first seen here."""
    record = _read(folder() / KNOWN).get(card.weights_file or "", {})
    return card.weights_sha256 or record.get("sha256")


def confirm(card: TeacherCard, path: Path, url: str | None = None) -> str:
    """Holds the file at `path` against what is known of it; records what was not known.

    Args:
        card: The teacher's.
        path: A copy of its published file.
        url: Where it came from just now, if known.

    Returns:
        Its sha256.

    Raises:
        WeightsError: Another size or sha256 than wanted, or it cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights ({error.strerror})") from None
    advice = "delete it to fetch it again"
    if card.weights_bytes not in (None, size):
        raise WeightsError(f"{path}: {size} bytes, wanted {card.weights_bytes}; {advice}")
    wanted = digest(card)
    if wanted not in (None, found):
        raise WeightsError(f"{path}: sha256 is {found}, wanted {wanted}; {advice}")
    if wanted is None:
        with suppress(OSError), _changed(folder() / KNOWN) as known:  # a shared home may be
            known[card.weights_file] = {"sha256": found, "bytes": size, "url": url}  # read-only
    return found


def consented(card: TeacherCard) -> bool:
    """Whether the weights' licence has been agreed to here, or asks for no agreement."""
    if card.weights_file is None or not card.non_commercial:
        return True
    return _read(folder() / LICENCES).get(card.weights_file) == card.licence_weights


def consent(card: TeacherCard) -> None:
    """Records that the user agrees to the licence of the weights of `card`, for good."""
    if card.non_commercial:
        try:
            with _changed(folder() / LICENCES) as licences:
                licences[card.weights_file] = card.licence_weights
        except OSError as error:
            raise WeightsError(f"{folder()}: cannot be written ({error.strerror})") from None


def require_consent(card: TeacherCard) -> None:
    """Raises ConfigError, with the licence, unless it has been agreed to."""
    if not consented(card):
        raise ConfigError(
            f"the weights of teacher {card.name} are under {card.licence_weights}: no commercial "
            f"use. Agree once with: understudy teachers fetch {card.name} --accept-licence"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); delete it") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: wanted a JSON object, found {type(content).__name__}")
    return content


@contextmanager
def _changed(path: Path) -> Iterator[dict[Any, Any]]:
    """What `path` holds; it is written again at the end, with other processes kept waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = _read(path)
        yield content
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)
