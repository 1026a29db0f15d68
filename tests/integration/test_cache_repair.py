"""Damage, `cache verify --repair`, the command it prints: the store is what it was."""

import re
import shlex

import numpy as np
from click.testing import CliRunner

from understudy import audio, cache
from understudy.cli import cli


def call(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def contents(folder):
    return {str(p): p.read_bytes() for p in folder.glob("*.zarr/*/c/**/*") if p.is_file()}


def test_the_printed_command_redoes_the_damaged_shards_with_equal_bytes(tmp_path):
    root, folder = tmp_path / "set", tmp_path / "the cache/set"
    root.mkdir()
    for i in range(6):
        time_s = np.arange(16000 + 4000 * i) / 16000
        audio.write(root / f"{i}.wav", 0.1 * np.sin(time_s * 700 * (i + 1)), 16000)
    options = ["--teacher", "spectral", "--audio", "--clips-per-shard", "2"]
    result = call("extract", "folder", "--root", root, *options, "--cache", tmp_path / "the cache")
    assert result.exit_code == 0, result.output
    before = contents(folder)
    by_name = {path.name.partition("-")[0]: path for path in cache.stores(folder)}
    for file in (by_name["spectral"] / "embedding/c/1/0/0", by_name["audio"] / "pcm/c/2/0"):
        flipped = bytearray(file.read_bytes())
        flipped[5] ^= 1
        file.write_bytes(flipped)
    untouched = folder / by_name["spectral"] / "embedding/c/0/0/0"
    written = untouched.stat().st_mtime_ns
    result = call("cache", "verify", tmp_path / "the cache", "--repair")
    assert result.exit_code == 1
    commands = re.findall(r"^  understudy (.*)$", result.output, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("FOLDER", shlex.quote(str(root))))
        words[1] = "folder"
        result = call(*words)
        assert result.exit_code == 0, result.output
    assert contents(folder) == before
    assert untouched.stat().st_mtime_ns == written
    assert call("cache", "verify", tmp_path / "the cache").exit_code == 0
    assert "4 files" in call("cache", "prune", tmp_path / "the cache", "--yes").output
