"""The pages of the documentation, taken apart: code blocks, headings and links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
SHELLS = ("bash", "sh", "shell", "console")

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    """Of the fence, counted from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def script(self) -> str:
        """What a reader would run: of a console, the lines after its prompts."""
        if self.language != "console":
            return self.text.replace("\\\n", " ")
        return "".join(f"{line[2:]}\n" for line in self.text.splitlines() if line[:2] == "$ ")

    @property
    def file_name(self) -> str | None:
        """The name under which a reader keeps the block, if its first line gives one."""
        first = self.text.partition("\n")[0] if self.language == "python" else ""
        match = re.match(r"# (\w+\.py)$", first)
        return match and match[1]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in their order."""
    text = read(page)
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in _FENCE.finditer(text)
    ]


def shell_blocks(page: str) -> list[Block]:
    """Those of them that hold commands."""
    return [block for block in blocks(page) if block.language in SHELLS]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def anchors(page: str) -> set[str]:
    """The anchors that the headings of a page make, as GitHub names them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        anchor, number = words, 0
        while anchor in found:
            number += 1
            anchor = f"{words}-{number}"
        found.add(anchor)
    return found


def links(page: str) -> list[str]:
    """Targets of the links of a page that do not leave the repository."""
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]
