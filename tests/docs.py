"""Documentation as programs: the fenced blocks of a page, and what runs them.

A block's first word is its language, the rest of the line what to do with it:

    ```sh                       commands, run one by one in a folder of the page's own
    ```sh not-run: REASON       commands that are only parsed, options and all
    ```python                   run, in one namespace for the whole page
    ```yaml FILE                written to FILE, as are csv and python blocks with a name
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)[ ]*(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block; `line` is where its fence stands in the page."""

    language: str
    note: str
    text: str
    line: int

    @property
    def not_run(self) -> str | None:
        """Why its commands are not run; None where they are."""
        word, _, reason = self.note.partition(":")
        return reason.strip() if word == "not-run" else None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks with a language."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            language=match[1],
            note=match[2].strip(),
            text=match[3],
            line=text.count("\n", 0, match.start()) + 1,
        )
        for match in _FENCE.finditer(text)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command; comments and the backslash at a line's end are the shell's."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words
