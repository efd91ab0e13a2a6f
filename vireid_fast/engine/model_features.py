"""Features of a data set's split with a model folder, whoever trained it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from vireid_fast._checks import require_choice
from vireid_fast.config import Config
from vireid_fast.config.common import DataConfig
from vireid_fast.data.datasets import DATASETS
from vireid_fast.engine.data_setup import read_table, require_kind
from vireid_fast.engine.extraction import Extraction, extract_features
from vireid_fast.engine.feature_writing import row_paths, write_extraction
from vireid_fast.engine.networks import FeatureNetwork

SPLITS = ("train", "val", "test")


def extract_split(
    network: FeatureNetwork,
    data: DataConfig,
    split: str,
    out: Path,
    *,
    dtype: str = "float32",
    batch_size: int = 64,
) -> Extraction:
    """Extract a split of a data set and write the feature file, which `vireid eval` judges.

    Args:
        network: The model; images are resized as its card says.
        data: Data set, its folder and its numbered split; `skip_bad_images` as in a run.
        split: "train", "val" or "test".
        out: Feature file.
        dtype: "float32" or "float16", in which the file holds the features.
        batch_size: Images per block.

    Returns:
        The extraction.

    Raises:
        ConfigError: The data set does not fit, or holds tracklets for a network of images.
        ImageError: A damaged image, unless `data.skip_bad_images`.
    """
    require_choice("extract", "--split", split, SPLITS)
    config = Config(data=data)
    table = read_table(config)
    require_kind(config, table, video=network.sampling is not None)
    rows: np.ndarray = table.rows(split)
    with network.autocast():
        extraction = extract_features(
            network.encode, table, rows, network.size, network.augmentation,
            sampling=network.sampling, batch_size=batch_size, device=network.device,
            skip_bad=data.skip_bad_images, description=f"extracting {split}",
            interpolation=network.card.preprocessing.interpolation,
        )  # fmt: skip
    # The file is of this data set, whatever the model was trained on.
    numbered = DATASETS[data.name].splits > 0
    card = replace(network.card, data=data.name, split=data.split if numbered else None)
    write_extraction(
        out, extraction.features, card, dtype=dtype, root=table.root,
        paths=row_paths(table, extraction.rows), further={"split": split},
    )  # fmt: skip
    return extraction
