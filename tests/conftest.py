"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing: machines are shared.
settings.register_profile("understudy", deadline=None)
settings.load_profile("understudy")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden vectors, real recordings and real weights; skips where it is absent.

    `UNDERSTUDY_SHARED` names it; by default it is looked for beside the checkout.
    """
    path = Path(os.environ.get("UNDERSTUDY_SHARED", ROOT.parent / "shared"))
    if not (path / "golden").is_dir():
        pytest.skip(f"no golden vectors at {path} (set UNDERSTUDY_SHARED)")
    return path


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Folder of golden vectors (npz)."""
    return shared / "golden"
