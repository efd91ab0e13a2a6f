"""Counts a data set and names what deviates from its published structure."""

from collections.abc import Callable
from dataclasses import dataclass

from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.images import ImageError, load_images
from vireid_fast.data.structure import UNIONS, Structure, count_structure, describe_differences
from vireid_fast.data.synthetic import is_synthetic
from vireid_fast.data.table import MODALITY_NAMES, ImageTable


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it.

    Attributes:
        name: Name of the data set.
        root: Its folder.
        counted: Its identities, cameras and images.
        compared: Whether there is a published structure to compare with.
        synthetic: Whether it is a set of `data.synthetic`, which need not equal the published one.
        deviations: Differences from the published structure, in words.
        problems: What keeps the data set from being used, in words.
        warnings: Oddities that do no harm, in words.
        decoded: Images that were decoded; 0 if that was not asked for.
        bad_images: The images that could not be decoded.
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

    @property
    def ok(self) -> bool:
        """Whether the set can be used and equals its published structure, if it has to."""
        incomplete = self.deviations and not self.synthetic
        return not (incomplete or self.problems or self.bad_images)

    def __str__(self) -> str:
        """The report as text: a table of counts, then one line for each finding."""
        counted = self.counted
        rows = [("split", "identities", *MODALITY_NAMES)]
        for split in UNIONS:
            images = (f"{counted.num_images(split, word):,}" for word in MODALITY_NAMES)
            rows.append((split, f"{counted.num_identities(split):,}", *images))
        rows.append(("all", "", *(f"{counted.total_images[word]:,}" for word in MODALITY_NAMES)))
        lines = [f"{self.name} in {self.root}"]
        lines += [f"  {name:10}" + "".join(f"{cell:>12}" for cell in row) for name, *row in rows]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"deviation: {deviation}" for deviation in self.deviations]
        lines += [f"bad image: {error.path}: {error.reason}" for error in self.bad_images]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, self._verdict()])

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

    def to_json(self) -> dict:
        """The report as plain dicts, lists, strings and numbers."""
        counted = self.counted
        return {
            "name": self.name,
            "root": self.root,
            "ok": self.ok,
            "identities": {split: counted.num_identities(split) for split in UNIONS},
            "images": {
                **{
                    split: {word: counted.num_images(split, word) for word in MODALITY_NAMES}
                    for split in UNIONS
                },
                "all": dict(counted.total_images),
            },
            "cameras": {
                split: {
                    word: {str(camera): count._asdict() for camera, count in cameras.items()}
                    for word, cameras in words.items()
                }
                for split, words in counted.cameras.items()
            },
            "protocol": counted.protocol_sizes(),
            "compared": self.compared,
            "synthetic": self.synthetic,
            "deviations": list(self.deviations),
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "decoded": self.decoded,
            "bad_images": [{"path": e.path, "reason": e.reason} for e in self.bad_images],
        }


def check_dataset(
    table: ImageTable,
    name: str,
    *,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
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
    published = DATASETS[name].published if name in DATASETS else None
    return CheckReport(
        name=name,
        root=str(table.root),
        counted=counted,
        compared=published is not None,
        synthetic=is_synthetic(table.root),
        deviations=tuple(describe_differences(counted, published) if published else ()),
        problems=table.problems,
        warnings=table.warnings,
        decoded=len(table) if decode else 0,
        bad_images=tuple(_find_bad_images(table, progress) if decode else ()),
    )


def _find_bad_images(
    table: ImageTable, progress: Callable[[int, int], None] | None
) -> list[ImageError]:
    files = [table.file(row) for row in range(len(table))]
    bad = []
    for done, image in enumerate(load_images(files), start=1):
        if isinstance(image, ImageError):
            bad.append(image)
        if progress is not None:
            progress(done, len(files))
    return bad
