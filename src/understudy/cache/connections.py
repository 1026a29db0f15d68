"""Connections to object stores: which there are, with whose credentials, how patiently.

obstore looks for credentials in the environment and then asks the machine it runs on, for the role
that a machine in the cloud may have. Off the cloud nobody answers that, so it is asked here first.
"""

import contextlib
import http.client
import os
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from understudy.errors import CacheError

INSTALL = "pip install 'understudy[remote]'"
RETRIES = {
    "max_retries": 10,
    "backoff": {
        "init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 3,
    },
    "retry_timeout": timedelta(seconds=60),
}  # fmt: skip
# An upload says nothing until the store has all of it, so that a slow line is told from a dead one
# by time alone; of what is read, the next bytes are waited for.
UPLOAD, STALL, LONGEST_READ = timedelta(minutes=10), timedelta(seconds=30), timedelta(days=1)
MACHINE = "169.254.169.254"
PROBE_S = 2.0
_pid_of_runtime: list[int] = []


class Scheme(NamedTuple):
    """Where a kind of object store has its credentials from."""

    variables: tuple[str, ...]
    """Any of them: the environment names some."""
    anonymous: str
    """Variable that does without."""
    file: str
    """Read by obstore, below the home folder; empty for none."""
    wanted: str
    machine: str
    """Variable with the address that tells the machine's role."""
    ask: tuple[str, str, dict[str, str]]
    """Request to that address: method, path and headers."""


SCHEMES = {
    "s3": Scheme(
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ),
        "AWS_SKIP_SIGNATURE",
        "",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION)",
        "AWS_METADATA_ENDPOINT",
        ("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}),
    ),
    "gs": Scheme(
        (
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_BEARER_TOKEN",
        ),
        "GOOGLE_SKIP_SIGNATURE",
        ".config/gcloud/application_default_credentials.json",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GCE_METADATA_HOST",
        ("GET", "/computeMetadata/v1/instance/", {"Metadata-Flavor": "Google"}),
    ),
}


@lru_cache(maxsize=64)
def connect(root: str, pid: int, uploads: bool = False) -> Any:
    """obstore's object for a bucket or a place in it; its threads are the first process's alone.

    Args:
        root: URL of the bucket.
        pid: This process.
        uploads: Whether requests may take as long as a slow line needs to send them.

    Raises:
        CacheError: No obstore, a forked process, no credentials, or options that obstore refuses.
    """
    try:
        from obstore.store import from_url
    except ImportError:
        raise CacheError(f"{root}: to read object stores: {INSTALL}") from None
    if not _pid_of_runtime:
        _pid_of_runtime.append(pid)
    if _pid_of_runtime[0] != pid:
        raise CacheError(
            f"{root}: this process was forked from one that had opened an object store already, "
            "and its connections did not come along; start processes by spawn or forkserver"
        )
    if not _may_have_credentials(root.partition(":")[0], pid):
        raise CacheError(f"{root}: {no_credentials(root)}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    plain = root.startswith("s3:") and endpoint.startswith("http:")
    options: Any = {"allow_http": plain, "connect_timeout": "5s"}
    if uploads:
        options["timeout"] = UPLOAD
    else:
        options |= {"timeout": LONGEST_READ, "read_timeout": STALL}
    try:
        return from_url(root, client_options=options, retry_config=RETRIES)  # type: ignore[call-overload]
    except Exception as error:  # of several unrelated classes
        raise CacheError(f"{root}: {str(error)[:300]}") from None


def no_credentials(root: str) -> str:
    """What was looked for in vain, for messages."""
    scheme = SCHEMES[root.partition(":")[0]]
    home = f"~/{scheme.file}, " if scheme.file else ""
    text = (
        f"no credentials: looked for {scheme.wanted} in the environment, {home}and for a role of "
        f"this machine ({_machine(scheme)} names none). A bucket that anybody may read wants "
        f"{scheme.anonymous}=true"
    )
    if root.startswith("s3:") and ("AWS_PROFILE" in os.environ or (Path.home() / ".aws").is_dir()):
        text += (
            ". Profiles in ~/.aws are not read; this puts one into the environment: "
            'eval "$(aws configure export-credentials --format env)"'
        )
    return text


def from_machine(text: str) -> bool:
    """Whether an error is about a request to this machine, not to a store."""
    return any(_machine(scheme) in text for scheme in SCHEMES.values())


def _machine(scheme: Scheme) -> str:
    return urlsplit(_address(scheme)).netloc


def _address(scheme: Scheme) -> str:
    named = os.environ.get(scheme.machine) or MACHINE
    return named if "//" in named else f"http://{named}"


@lru_cache(maxsize=8)
def _may_have_credentials(name: str, pid: int) -> bool:
    """Whether the environment names credentials, or the machine answers who is asked for some."""
    scheme = SCHEMES[name]
    if any(os.environ.get(variable) for variable in scheme.variables):
        return True
    if os.environ.get(scheme.anonymous, "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return True
    if scheme.file and (Path.home() / scheme.file).is_file():
        return True
    address = urlsplit(_address(scheme))
    for _ in range(2):  # an answer may get lost
        connection = http.client.HTTPConnection(
            address.hostname or MACHINE, address.port, timeout=PROBE_S
        )
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            method, path, headers = scheme.ask
            connection.request(method, path, headers=headers)
            status = connection.getresponse().status
            return status < 400 or status >= 500 or "AWS_IMDSV1_FALLBACK" in os.environ
    return False
