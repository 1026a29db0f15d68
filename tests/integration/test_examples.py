"""The examples run, with short runs and narrow students."""

import re
import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("agg")

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = example.read_text(encoding="utf-8")
    text = re.sub(r"^CLIPS = .*", "CLIPS = 30", text, flags=re.MULTILINE)
    text = re.sub(r"^CLIPS, STEPS, WIDTH = .*", "CLIPS, STEPS, WIDTH = 30, 4, 4", text, flags=re.M)
    text = re.sub(r"^SEEDS = .*", "SEEDS = (1,)", text, flags=re.MULTILINE)
    script = tmp_path / example.name
    script.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    plt.close("all")
    last = capsys.readouterr().out.strip().splitlines()[-1]
    kind, named = last.split()[:2]
    assert kind in ("Picture:", "Report:")
    assert (tmp_path / named).stat().st_size > 1000
