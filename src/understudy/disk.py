"""The disk below a folder that need not be there yet."""

import shutil
from pathlib import Path


def existing(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    folder = folder.absolute()
    return next(there for there in (folder, *folder.parents) if there.exists())


def free_bytes(folder: Path) -> int:
    """What its disk has left."""
    return shutil.disk_usage(existing(folder)).free
