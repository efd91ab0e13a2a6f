"""Counts a data set and names what deviates from its published structure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vireid_fast._checks import require, require_choice
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.images import ImageError, load_images
from vireid_fast.data.structure import (
    Structure,
    count_long,
    count_structure,
    describe_differences,
)
from vireid_fast.data.synthetic import is_synthetic
from vireid_fast.data.table import MODALITY_NAMES, ImageTable
from vireid_fast.data.tracklets import TrackletTable

Table = ImageTable | TrackletTable
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it.

    Attributes:
        name: Name of the data set.
        root: Its folder.
        counted: Its identities, cameras and images or tracklets.
        compared: Whether there is a published structure to compare with.
        synthetic: Whether it is a set of `data.synthetic`, which need not equal the published one.
        deviations: Differences from the published structure, in words.
        problems: What keeps the data set from being used, in words.
        warnings: Oddities that do no harm, in words.
        decoded: Images that were decoded; 0 if that was not asked for.
        bad_images: The images that could not be decoded.
        split: Number of the train / test split; None where the set has one split only.
    """

    name: str
    root: str
    counted: Structure
    compared: bool
    synthetic: bool
    deviations: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    decoded: int
    bad_images: tuple[ImageError, ...]
    split: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the set can be used and equals its published structure, if it has to."""
        incomplete = self.deviations and not self.synthetic
        return not (incomplete or self.problems or self.bad_images)

    def __str__(self) -> str:
        """The report as text: a table of counts, then one line for each finding."""
        split = "" if self.split is None else f", split {self.split}"
        return "\n".join([f"{self.name} in {self.root}{split}", *self._lines()])

    def _lines(self) -> Iterator[str]:
        for name, *cells in self._table():
            yield f"  {name:10}" + "".join(f"{cell:>12}" for cell in cells).rstrip()
        for name, count in self.counted.sizes.items():
            yield f"  {name}: {count:,} {self.counted.unit}"
        yield from (f"problem: {problem}" for problem in self.problems)
        yield from (f"deviation: {deviation}" for deviation in self.deviations)
        yield from (f"bad image: {error.path}: {error.reason}" for error in self.bad_images)
        yield from (f"warning: {warning}" for warning in self.warnings)
        yield self._verdict()

    def _table(self) -> Iterator[tuple[str, ...]]:
        """Cells of the table of counts; tracklets are followed by the frames they hold."""
        counted = self.counted
        video = counted.frames is not None
        words = [word for word in MODALITY_NAMES for word in (word, *["frames"] * video)]
        yield ("split", "identities", *words)
        for part in counted.parts:
            cells = []
            for word in MODALITY_NAMES:
                cells.append(f"{counted.num_rows(part, word):,}")
                cells += [f"{counted.num_frames(part, word):,}"] * video
            yield (part, f"{counted.num_identities(part):,}", *cells)
        if counted.total is not None:
            totals = [(f"{counted.total[word]:,}", *[""] * video) for word in MODALITY_NAMES]
            yield ("all", "", *(cell for cells in totals for cell in cells))

    def _verdict(self) -> str:
        if not self.ok:
            return "The data set is not complete and sound."
        if not self.compared:
            return "No published structure to compare with; nothing is wrong with the files."
        if self.deviations:
            return (
                f"A sound synthetic set; it differs from the published structure in "
                f"{len(self.deviations)} counts, as it may."
            )
        return "Equal to the published structure."

    def to_json(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        return {
            "name": self.name,
            "root": self.root,
            "split": self.split,
            "ok": self.ok,
            **_counts_json(self.counted),
            "compared": self.compared,
            "synthetic": self.synthetic,
            "deviations": list(self.deviations),
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "decoded": self.decoded,
            "bad_images": [{"path": e.path, "reason": e.reason} for e in self.bad_images],
        }


def _counts_json(counted: Structure) -> dict[str, Any]:
    parts = counted.parts
    values = {
        "unit": counted.unit,
        "identities": {part: counted.num_identities(part) for part in parts},
        counted.unit: {
            **{p: {w: counted.num_rows(p, w) for w in MODALITY_NAMES} for p in parts},
            "all": dict(counted.total or {}),
        },
        "cameras": {
            split: {
                word: {
                    str(camera): {counted.unit: count.rows, "identities": count.identities}
                    for camera, count in cameras.items()
                }
                for word, cameras in words.items()
            }
            for split, words in (counted.cameras or {}).items()
        },
        "sizes": dict(counted.sizes),
    }
    if counted.frames is not None:
        values["frames"] = {
            p: {w: counted.num_frames(p, w) for w in MODALITY_NAMES} for p in parts
        }
    return values


@dataclass(frozen=True)
class CheckReports:
    """Reports of all splits of a data set that were checked; at least one."""

    reports: tuple[CheckReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every split is."""
        return all(report.ok for report in self.reports)

    def __str__(self) -> str:
        """The reports one after the other; those of equal counts and findings as one."""
        groups: dict[tuple[str, ...], list[CheckReport]] = {}
        for report in self.reports:
            groups.setdefault(tuple(report._lines()), []).append(report)
        texts = []
        for lines, group in groups.items():
            first, numbers = group[0], ", ".join(str(report.split) for report in group)
            title = str(first).splitlines()[0]
            if len(group) > 1:
                title = f"{first.name} in {first.root}, splits {numbers}"
            texts.append("\n".join([title, *lines]))
        return "\n\n".join(texts)

    def to_json(self) -> dict[str, Any]:
        """The one report, or for several `ok` and the list "splits"."""
        if len(self.reports) == 1:
            return self.reports[0].to_json()
        return {"ok": self.ok, "splits": [report.to_json() for report in self.reports]}


def check_folder(
    name: str,
    root: str | Path,
    *,
    split: int | None = None,
    decode: bool = False,
    follow_links: bool = False,
    progress: Progress | None = None,
) -> CheckReports:
    """Read a data set, every split of it, and check it.

    Args:
        name: Key of `DATASETS`.
        root: Folder, or file, that its reader takes.
        split: The one numbered split to check; None checks all.
        decode: Also decode every image, once, and list the bad ones.
        follow_links: Take images of a manifest that links put outside its folder.
        progress: Called with (images decoded, images) after each image of a split.

    Returns:
        One report for each split; nothing is raised for a deviating data set.

    Raises:
        ValueError: `name` or `split` does not exist. DatasetError: There is nothing to count.
    """
    require_choice("check-data", "--data", name, sorted(DATASETS))
    entry = DATASETS[name]
    if not entry.splits:
        require(split is None, "check-data", "--split", f"be left out for {name}", split,
                "The set has one split only.")  # fmt: skip
        links = {"follow_links": follow_links} if entry.guards_links else {}
        table = entry.read(root, strict=False, **links)
        return CheckReports((check_dataset(table, name, decode=decode, progress=progress),))
    require(split is None or 1 <= split <= entry.splits, "check-data", "--split",
            f"be 1 to {entry.splits}", split)  # fmt: skip
    reports, seen = [], set()
    for number in range(1, entry.splits + 1) if split is None else (split,):
        table = entry.read(root, strict=False, split=number)
        report = check_dataset(table, name)
        if decode:
            files = [file for file in _files(table) if file not in seen]
            seen.update(files)
            bad = tuple(_find_bad_images(files, progress))
            report = replace(report, decoded=len(files), bad_images=bad)
        reports.append(replace(report, split=number))
    return CheckReports(tuple(reports))


def check_dataset(
    table: Table, name: str, *, decode: bool = False, progress: Progress | None = None
) -> CheckReport:
    """Count identities, cameras and images, and compare with the published structure.

    Args:
        table: The data set, read with `strict=False` so that its problems can be listed.
        name: Key of `DATASETS` to compare with; a set of another name is only counted.
        decode: Also decode every image and list the bad ones.
        progress: Called with (images decoded, images) after each image.

    Returns:
        The report; nothing is raised for a deviating data set.
    """
    counted = count_structure(table)
    entry = DATASETS.get(name)
    if entry is not None and entry.sizes is not None:
        counted = replace(counted, sizes={**counted.sizes, **entry.sizes(counted)})
    if entry is not None and entry.min_frames > 1 and isinstance(table, TrackletTable):
        longer = count_long(table, entry.min_frames)
        counted = replace(counted, sizes={**counted.sizes, **longer})
    published = entry.published if entry is not None else None
    files = _files(table) if decode else []
    return CheckReport(
        name=name,
        root=str(table.root),
        counted=counted,
        compared=published is not None,
        synthetic=is_synthetic(table.root),
        deviations=tuple(describe_differences(counted, published) if published else ()),
        problems=table.problems,
        warnings=table.warnings,
        decoded=len(files),
        bad_images=tuple(_find_bad_images(files, progress)),
    )


def _files(table: Table) -> list[Path]:
    images = table.frames if isinstance(table, TrackletTable) else table
    return [images.file(row) for row in range(len(images))]


def _find_bad_images(files: Sequence[Path], progress: Progress | None) -> list[ImageError]:
    bad = []
    for done, image in enumerate(load_images(files), start=1):
        if isinstance(image, ImageError):
            bad.append(image)
        if progress is not None:
            progress(done, len(files))
    return bad
