"""Reports in headless Chromium: no errors, no overflow on a phone, tables that sort."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.run_dirs import SYSTEMS, make_run

from understudy.evaluate.report import report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: none of {NAMES}")
PROBE = """
<script>
window.addEventListener("load", () => {
  const told = {
    width: innerWidth, wide: document.documentElement.scrollWidth,
    dark: getComputedStyle(document.body).backgroundColor, sorted: [],
  };
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.click();
      const rows = [...table.tBodies[0].rows];
      const numbers = rows.map((row) => parseFloat(value(row, column).replace("−", "-")));
      if (numbers.every(Number.isFinite))
        told.sorted.push(numbers.every((x, i) => !i || numbers[i - 1] >= x) && head.ariaSort === "descending");
    });
  }
  document.body.dataset.told = JSON.stringify(told);
});
</script>
"""  # noqa: E501


def visit(page: Path, folder: Path, width: int, dark: bool) -> tuple[dict, str]:
    """What the page tells of itself at a width, and the browser's log."""
    probed = folder / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("</body>", PROBE + "</body>"), "utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--enable-logging=stderr", f"--window-size={width},900",
               f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000"]  # fmt: skip
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [*command, probed.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HOME": str(folder)},
    )
    told = re.search(r'data-told="([^"]*)"', done.stdout)
    assert told is not None, done.stderr[-2000:]
    return json.loads(told[1].replace("&quot;", '"')), done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    runs = [make_run(folder, name, epochs=5, target="toy-field") for name in SYSTEMS]
    return report(runs, folder / "out")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    page: Path, tmp_path: Path, dark: bool
) -> None:
    told, log = visit(page, tmp_path, 390, dark)
    assert told["wide"] <= told["width"]
    assert "CONSOLE" not in log
    red = int(re.findall(r"\d+", told["dark"])[0])
    assert (red < 128) == dark


def test_tables_sort_by_every_column_of_numbers(page: Path, tmp_path: Path) -> None:
    told, log = visit(page, tmp_path, 1280, dark=False)
    assert len(told["sorted"]) > 10
    assert all(told["sorted"])
    assert "CONSOLE" not in log
