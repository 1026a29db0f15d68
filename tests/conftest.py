"""Fixtures shared by all tests."""

import importlib.util
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests import s3

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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server; skips where moto or obstore is absent."""
    for name in ("moto", "flask_cors", "obstore"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    with s3.server(tmp_path_factory.mktemp("moto")) as url:
        yield url


_numbers = itertools.count()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket; the environment leads there."""
    name = f"bucket-{next(_numbers)}"
    s3.make_bucket(s3_server, name)
    for key, value in {**s3.CREDENTIALS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(key, value)
    return f"s3://{name}"
