"""Results of a search as tables for the terminal, as JSON, and as a page with pictures."""

import json
from io import StringIO
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vireid_fast._checks import require, require_choice
from vireid_fast._files import atomic_write
from vireid_fast.data.images import file_below
from vireid_fast.engine.report.shelf import Shelf, unreadable_note
from vireid_fast.engine.search import SearchResults, Side, known_right
from vireid_fast.report.content import Match
from vireid_fast.report.search_page import SearchPage, write_search_page

FORMATS = ("table", "json", "page")

MOST_QUERIES_ON_A_PAGE = 200
"""Of more the page shows the first; a browser is no place for all pictures of a data set."""


def require_search_output(format: str, out: Path | None, images: Path | None) -> None:
    """Refuse, before anything is computed, an output that could not be written."""
    require_choice("search", "--format", format, FORMATS)
    require(format != "page" or (out is not None and out.suffix == ".html"), "search", "--out",
            "name an .html file for a page", out)  # fmt: skip
    require(out is None or not out.is_dir(), "search", "--out", "be a file", f"the folder {out}")
    require(images is None or format == "page", "search", "--images", "come with --format page",
            f"--format {format}")  # fmt: skip
    require(images is None or images.is_dir(), "search", "--images", "be an existing folder",
            images)  # fmt: skip


def search_table(results: SearchResults) -> Group:
    """A table for each query, and what a reader should know."""
    parts: list[Table | Text] = [Text(_summary(results))]
    for row, matches in enumerate(results.lists):
        table = Table(
            "rank", "distance", "identity", "camera", "modality", "image",
            title=Text(f"query {results.query.name(row)}"), title_justify="left",
        )  # fmt: skip
        for found in matches:
            shown = results.gallery.describe(found.row)
            words = ["–" if shown[key] is None else str(shown[key])
                     for key in ("person_id", "camera_id", "modality")]  # fmt: skip
            # Names are text: a bracket in a file's name is no markup.
            cells = [str(found.rank), f"{found.distance:.4f}", *words,
                     results.gallery.name(found.row)]  # fmt: skip
            table.add_row(*map(Text, cells))
        parts.append(table)
    parts += [Text(note) for note in results.notes]
    return Group(*parts)


def search_json(results: SearchResults) -> str:
    """JSON text of `SearchResults.to_json`."""
    return json.dumps(results.to_json(), indent=1, allow_nan=False) + "\n"


def write_table(results: SearchResults, path: Path) -> None:
    """Write the tables as plain text in one step."""
    text = StringIO()
    Console(file=text, width=120).print(search_table(results))
    with atomic_write(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="replace")


def write_json(results: SearchResults, path: Path) -> None:
    """Write the JSON in one step."""
    with atomic_write(path) as temporary:
        temporary.write_text(search_json(results), encoding="utf-8")


def write_page(results: SearchResults, path: Path, images: Path | None = None) -> None:
    """Write the page, with pictures where the files are at hand.

    Args:
        results: What was found.
        path: The .html file.
        images: Folder of the gallery's images; None: the one that its file names, where it exists.

    Raises:
        ValueError: A path in the gallery's file leaves its folder, or the file names no images.
        OSError: The page cannot be written.
    """
    require(
        images is None or results.gallery.names is not None, "search", "--images",
        f"belong to a gallery with paths, which {results.gallery.source} has not", images,
        "Extract the gallery anew, or leave --images out.",
    )  # fmt: skip
    shelves = [_shelf(results.query, None), _shelf(results.gallery, images)]
    notes = list(results.notes)
    if shelves[1].file is None:
        notes.append("No pictures of the gallery: its images are not known, or not on this "
                     "machine. --images names their folder.")  # fmt: skip
    if len(results.lists) > MOST_QUERIES_ON_A_PAGE:
        notes.append(f"{MOST_QUERIES_ON_A_PAGE} of {len(results.lists)} queries are shown; "
                     "--format json has all.")  # fmt: skip
    queries = tuple(
        (shelves[0].item(row), _matches(results, shelves[1], row))
        for row in range(min(len(results.lists), MOST_QUERIES_ON_A_PAGE))
    )
    notes += unreadable_note(shelves)
    page = SearchPage(
        results.gallery.source.name, _summary(results), queries, _facts(results), tuple(notes)
    )
    write_search_page(page, path)


def _shelf(side: Side, images: Path | None) -> Shelf:
    root = images or side.root
    if side.names is None or root is None or not root.is_dir():
        return Shelf(side.features, side.name)

    def file(row: int) -> Path:
        name = side.name(row)
        # Whoever gives a folder may link into it; whoever writes a feature file may not.
        return root / name if side.given else file_below(root, name, str(side.source))

    return Shelf(side.features, side.name, file)


def _matches(results: SearchResults, shelf: Shelf, row: int) -> tuple[Match, ...]:
    return tuple(
        Match(found.rank, shelf.item(found.row), found.distance, known_right(results, row, found))
        for found in results.lists[row]
    )


def _summary(results: SearchResults) -> str:
    rerank = results.rerank
    words = [
        f"{len(results.lists)} quer{'y' if len(results.lists) == 1 else 'ies'}",
        f"{results.searched} of {len(results.gallery.features)} gallery images",
        f"{results.metric} distance",
        "no re-ranking" if rerank is None
        else f"re-ranking ({rerank.k1}, {rerank.k2}, {rerank.lambda_value:g})",
    ]  # fmt: skip
    return ", ".join(words)


def _facts(results: SearchResults) -> dict[str, str]:
    made = {**results.query.notes, **results.gallery.notes}
    facts = {"Gallery": str(results.gallery.source), "Model": str(results.query.source)}
    words = {"method": "Method", "checkpoint": "Weights (SHA-256)", "data": "Trained on",
             "normalisation": "Normalisation", "dtype": "Stored as"}  # fmt: skip
    facts |= {title: made[name] for name, title in words.items() if name in made}
    facts["Search"] = _summary(results)
    return facts

