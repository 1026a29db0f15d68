"""pytest captures file descriptor 2 as well, so these run in processes of their own."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from understudy import audio

AROUND = """
import os, subprocess, sys
from understudy import audio
os.write(2, b"before\\n")
with audio.set_aside() as noise:
    for number in range(3):
        os.write(2, b"Note: Illegal header 0xff%d at offset %d.\\n" % (number, number))
    subprocess.run(["sh", "-c", "echo child >&2"])
    print("python", file=sys.stderr)
os.write(2, b"after\\n")
print("python again", file=sys.stderr)
print(len(noise), noise)
"""


def test_only_what_goes_past_python_is_kept():
    ran = subprocess.run([sys.executable, "-c", AROUND], capture_output=True, text=True, check=True)
    assert ran.stderr.split("\n") == ["before", "python", "after", "python again", ""]
    assert ran.stdout == "4 3 x 'Note: Illegal header 0xff0 at offset 0.'; 1 x 'child'\n"


def test_a_log_handler_made_meanwhile_goes_on():
    code = """
import logging
from understudy import audio
with audio.set_aside():
    logging.getLogger().addHandler(logging.StreamHandler())
logging.error("later")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "later\n"


def test_a_closed_descriptor_is_left_closed():
    code = "import os; os.close(2)\nfrom understudy import audio\nwith audio.set_aside() as noise:"
    code += "\n    print(len(noise))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_any_text_is_counted_by_lines(texts):
    noise = audio.Noise()
    for text in texts:
        noise.add(text)
    assert len(noise) == sum(bool(line.strip()) for text in texts for line in text.splitlines())
    assert bool(str(noise)) == bool(noise)


def test_extract_sums_up_what_the_mp3_decoder_prints(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(4):
        path = tmp_path / "in" / f"{number}.mp3"
        audio.write(path, generator.normal(0, 0.1, 80_000).astype(np.float32), 16_000)
        content = bytearray(path.read_bytes())
        for at in generator.integers(2000, len(content), 30).tolist():
            content[at] ^= 1 << at % 8
        path.write_bytes(content)
    command = [sys.executable, "-m", "understudy", "extract", "folder", "--root"]
    command += [str(tmp_path / "in"), "--teacher", "spectral", "--cache", str(tmp_path / "cache")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = ran.stderr.splitlines()
    assert not any(line.startswith(("Note", "[src")) for line in lines), lines
    (told,) = (line for line in lines if "decoder" in line)
    assert "x 'Note: " in told or "x '[src" in told
