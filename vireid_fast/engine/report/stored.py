"""Test features that an evaluation of a run left in its folder."""

import numpy as np

from vireid_fast.data.feature_files import read_metadata, read_paths
from vireid_fast.engine.data_setup import Table
from vireid_fast.engine.evaluation_files import read_feature_set
from vireid_fast.engine.extraction import Extraction
from vireid_fast.engine.feature_writing import row_paths
from vireid_fast.engine.progress import say
from vireid_fast.engine.run_folder import RunFolder


def stored_extraction(run: RunFolder, table: Table, checkpoint: str) -> Extraction | None:
    """The features in features/test.npz, if the best checkpoint made them from this table.

    Args:
        run: The run.
        table: Its data set.
        checkpoint: SHA-256 of the weights.

    Returns:
        The extraction; None, and a line on the terminal that says why, where they do not fit.
    """
    file = run.features / "test.npz"
    if not file.is_file():
        return None
    try:
        notes, names, features = read_metadata(file), read_paths(file), read_feature_set(file)
    except (ValueError, TypeError) as error:
        return _refused(f"{error}")
    if notes.get("checkpoint") != checkpoint or notes.get("dtype") != "float32":
        return _refused(f"{file} is not of the best checkpoint")
    test = table.rows("test")
    place = dict(zip(row_paths(table, test), test.tolist(), strict=True))
    if names is None or any(name not in place for name in names):
        return _refused(f"{file} is of other images")
    rows = np.array([place[name] for name in names], dtype=np.int64)
    if not np.array_equal(table.person_ids[rows], features.person_ids.numpy()):
        return _refused(f"{file} is of other people")
    return Extraction(features, rows, ())


def _refused(reason: str) -> Extraction | None:
    say(f"extracting the test features anew: {reason}")
    return None
