"""Writers of synthetic sets, one file per layout on disk, and their registry.

A writer is a function `write(root, *, identities, size, seed, ..., progress=None) -> bool` whose
keyword arguments have defaults; `write_layout` passes on the options that a user gives.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vireid_fast._checks import require, require_choice
from vireid_fast.data.synthetic.layouts.bupt_campus import write_bupt_layout
from vireid_fast.data.synthetic.layouts.hitsz_vcm import write_vcm_layout
from vireid_fast.data.synthetic.layouts.llcm import write_llcm_layout
from vireid_fast.data.synthetic.layouts.manifest import write_manifest_layout
from vireid_fast.data.synthetic.layouts.regdb import write_regdb_layout
from vireid_fast.data.synthetic.layouts.sysu_mm01 import write_sysu_layout
from vireid_fast.data.synthetic.people import Progress

LAYOUTS: dict[str, Callable[..., bool]] = {
    "sysu_mm01": write_sysu_layout,
    "regdb": write_regdb_layout,
    "llcm": write_llcm_layout,
    "hitsz_vcm": write_vcm_layout,
    "bupt_campus": write_bupt_layout,
    "manifest": write_manifest_layout,
}


def write_layout(
    layout: str, root: str | Path, *, progress: Progress | None = None, **options: Any
) -> bool:
    """Write a synthetic set in a layout of `LAYOUTS`.

    Args:
        layout: Name of the layout.
        root: Folder to create; it may exist if empty or an earlier set of this layout.
        progress: Called as progress(done, total) after each identity.
        options: Keyword arguments of the layout's writer; those left out have its defaults.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        TypeError, ValueError: An option does not fit, or the layout has no such option.
        FileExistsError: `root` holds something else, which is left untouched.
    """
    require_choice("synth", "layout", layout, LAYOUTS)
    known = inspect.signature(LAYOUTS[layout]).parameters.keys() - {"root", "progress"}
    for name, value in options.items():
        require(
            name in known, "synth", name, f"be left out for the layout {layout}", value,
            f"It takes {', '.join(sorted(known))}.",
        )  # fmt: skip
    return LAYOUTS[layout](root, progress=progress, **options)
