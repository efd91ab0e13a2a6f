"""The page of a search: every query with its nearest gallery images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vireid_fast._files import atomic_write
from vireid_fast.report.content import Item, Match
from vireid_fast.report.templating import render


@dataclass(frozen=True)
class SearchPage:
    """What the page shows, as plain values.

    Attributes:
        gallery: Name of the gallery.
        summary: One sentence below the heading.
        queries: Each query with its matches, nearest first.
        facts: Words by name.
        notes: Sentences on what was left out.
    """

    gallery: str
    summary: str
    queries: tuple[tuple[Item, tuple[Match, ...]], ...]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether it is known of a match if it is right."""
        return any(match.right is not None for _, matches in self.queries for match in matches)

    @property
    def pictured(self) -> bool:
        """Whether a match has a picture."""
        return any(match.item.picture for _, matches in self.queries for match in matches)


def write_search_page(page: SearchPage, path: Path) -> None:
    """Write one self-contained HTML page; the file is replaced in one step.

    Args:
        page: What to show. Words in it may be hostile: all are escaped.
        path: The .html file.

    Raises:
        OSError: The file cannot be written.
    """
    text = render("search.html.j2", page=page)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
