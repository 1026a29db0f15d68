"""No dependency, of the package or of any extra, forbids what the MIT licence allows."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(t) for texts in PROJECT["optional-dependencies"].values() for t in texts]
FREE = (
    "mit|bsd|apache|isc|psf|python software foundation|mpl|mozilla|zlib|hpnd|cc0|public domain"
    "|unlicense|lgpl|lesser general public"
)
PROPRIETARY = "nvidia-|cuda-"
"""CUDA libraries, which torch brings for GPUs; NVIDIA lets them be redistributed."""


def closure() -> dict[str, metadata.Distribution]:
    """Installed distributions that understudy needs, with all extras."""
    found: dict[str, metadata.Distribution] = {}
    pending = [*DIRECT, *EXTRAS]
    seen = set()
    while pending:
        wanted = pending.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (name, *wanted.extras) in seen:
            continue
        seen.add((name, *wanted.extras))
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        for requirement in map(Requirement, found[name].requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                pending.append(requirement)
    return found


def licence(distribution: metadata.Distribution) -> str:
    """All that a distribution's metadata say about its licence."""
    about = distribution.metadata.json
    texts = [about.get("license_expression"), str(about.get("license", ""))[:300]]
    texts += [c for c in about.get("classifier", []) if c.startswith("License")]
    return " | ".join(str(text) for text in texts if text)


def test_every_dependency_is_free_to_use_with_mit_code() -> None:
    found = closure()
    assert len(found) > 30, "the walk found hardly anything"
    refused = {}
    for name, distribution in found.items():
        text = licence(distribution).lower()
        others = re.sub(r"lgpl|lesser general public", "", text)
        copyleft = re.search(r"\ba?gpl|general public", others)
        if copyleft or not (re.search(FREE, text) or re.match(PROPRIETARY, name)):
            refused[name] = text
    assert not refused


def test_the_table_of_licences_names_every_direct_dependency() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| ([\w-]+) \|", page, re.MULTILINE))
    assert table - {"package"} == {requirement.name.lower() for requirement in DIRECT}
