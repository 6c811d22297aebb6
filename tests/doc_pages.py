"""README and docs as the tests read them: fenced blocks, what a block needs, and the words of a command line.

A block that cannot run in the tests has a comment above it that says what it needs::

    <!-- needs: a board -->
    ```sh
    sudo nvpmodel -q
    ```
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCED = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^>]*?) -->\n\n?)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: Name of the file.
        line: Of its fence, from 1.
        language: ``sh``, ``python`` ...
        text: What is between the fences.
        needs: What it needs that the tests do not have, or None.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_from_page(path: Path) -> list[Block]:
    """All fenced blocks in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            path.name,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            found["needs"],
        )
        for found in FENCED.finditer(text)
    ]


def command_lines(block: Block) -> list[str]:
    """The command lines of a shell block: continuation lines joined, comments left out."""
    lines = []
    for line in block.text.replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ")
        if text:
            lines.append(text)
    return lines


def stages(line: str) -> list[list[str]]:
    """The words of each command of a pipeline."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in {"|", "&&", ";"}:
            found.append([])
        else:
            found[-1].append(word)
    return found


def our_commands(block: Block) -> Iterator[list[str]]:
    """Every call of ``lrsclip`` or of one of our scripts in a block, as words."""
    for line in command_lines(block):
        for words in stages(line):
            for start, word in enumerate(words):
                if word == "lrsclip" or word.endswith("/lrsclip"):
                    yield ["lrsclip", *words[start + 1 :]]
                    break
                if re.fullmatch(r"(?:benchmarks|scripts)/[\w./-]+", word):
                    yield words[start:]
                    break
