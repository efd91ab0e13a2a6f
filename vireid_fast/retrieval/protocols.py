"""The named protocols; what each is, with its quirks, stands in docs/protocols.md.

A further protocol is one more entry of `PROTOCOLS`, with a gallery sampler of its own if none of
`retrieval.galleries` fits. Metrics are those of the released evaluators.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from vireid_fast._checks import require, require_choice
from vireid_fast.retrieval.feature_set import GALLERY, INFRARED, QUERY, UNKNOWN_CAMERA, VISIBLE
from vireid_fast.retrieval.galleries import official_gallery, seeded_gallery
from vireid_fast.retrieval.protocol import GallerySampler, Metric, Mode, Protocol, Side

_SEARCH_ALL = "all"

_INFRARED, _VISIBLE = Side(INFRARED), Side(VISIBLE)
_DIRECTIONS = {
    "infrared-visible": Mode(_INFRARED, _VISIBLE),
    "visible-infrared": Mode(_VISIBLE, _INFRARED),
}

_SYSU_MODALITY = {
    1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED,
}  # fmt: skip
_SYSU_QUERIES = Side(INFRARED, cameras=(3, 6))
_SYSU_MODES = {
    "all": Mode(_SYSU_QUERIES, Side(VISIBLE, cameras=(1, 2, 4, 5))),
    "indoor": Mode(_SYSU_QUERIES, Side(VISIBLE, cameras=(1, 2))),
}


def _sysu(name: str, metric: Metric, sampler: GallerySampler, permuted: bool) -> Protocol:
    return Protocol(
        name=name,
        metric=metric,
        cmc="identity",
        drop="same_group",
        modes=_SYSU_MODES,
        trials=10,
        draw_gallery=sampler,
        # Cameras 2 and 3 hang at one place, so camera 3 ignores camera 2.
        camera_groups={3: 2},
        camera_modality=_SYSU_MODALITY,
        needs_permutations=permuted,
    )


def _llcm(name: str, modes: Mapping[str, Mode]) -> Protocol:
    """ZYK100/LLCM@886e27c `DEEN/test.py`, `DEEN/data_manager.py`, `DEEN/eval_metrics.py`."""
    return Protocol(
        name, "dot", "identity", "same_group_and_id", modes, trials=10, draw_gallery=seeded_gallery
    )


# In the released test code "VIS to IR" loads all visible images as queries and draws infrared
# galleries, and then hands the evaluator the two in exchanged places.
_LLCM_EXECUTED = {
    **_DIRECTIONS, "visible-infrared": Mode(_VISIBLE, _INFRARED, swapped=True),
}  # fmt: skip


def _vcm() -> Protocol:
    """VCM-project233/MITML@1b39c05 `data_manager.py`, `eval_metrics.py` `evaluate`.

    The lists of the data set say who queries, whatever the modality of a row.
    """
    listed, others = Side(role=QUERY), Side(role=GALLERY)
    modes = {"infrared-visible": Mode(listed, others), "visible-infrared": Mode(others, listed)}
    return Protocol("vcm/mitml", "dot", "image", "same_group_and_id", modes)


def _bupt(name: str, visible_block: int) -> Protocol:
    """dyhBUPT/BUPTCampus@db1f179 `evaluation.py`, `test.py`, `sampler.py`."""
    modes = {
        "infrared-visible": Mode(Side(INFRARED, role=QUERY), Side(VISIBLE, role=GALLERY)),
        "visible-infrared": Mode(Side(VISIBLE, role=QUERY), Side(INFRARED, role=GALLERY)),
    }
    return Protocol(name, "euclidean", "image", "none", modes, visible_block=visible_block)


def _market1501() -> Protocol:
    """zhunzhong07/person-re-ranking@6afa6fa `evaluation/`: junk is identity -1; Euclidean on
    L2-normalised features, which orders as the cosine does.
    """
    modes = {_SEARCH_ALL: Mode(Side(role=QUERY), Side(role=GALLERY))}
    return Protocol("market1501", "cosine", "image", "same_group_and_id", modes, junk=(-1,))


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            _sysu("sysu/agw", "dot", seeded_gallery, permuted=False),
            _sysu("sysu/official", "euclidean", official_gallery, permuted=True),
            Protocol("regdb/agw", "dot", "image", "none", _DIRECTIONS, splits=10),
            Protocol("regdb/mpanet", "euclidean", "identity", "none", _DIRECTIONS, splits=10),
            _llcm("llcm/paper", _DIRECTIONS),
            _llcm("llcm/official-code", _LLCM_EXECUTED),
            Protocol("llcm/idkl", "euclidean", "identity", "none", _DIRECTIONS),
            _vcm(),
            _bupt("bupt/full", 0),
            _bupt("bupt/official-bs64", 64),
            _market1501(),
        )
    }
)


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
        ValueError: There is none; the error lists those there are.
    """
    require_choice("evaluation", "protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def protocol_modes(name: str) -> tuple[str, ...]:
    """Names of the modes of a protocol; of two directions, infrared queries come first.

    Raises:
        ValueError: There is no such protocol.
    """
    return tuple(get_protocol(name).modes)


def default_modes(name: str) -> tuple[str, ...]:
    """The modes that count where none is named: "all" where there is one, else each direction.

    Raises:
        ValueError: There is no such protocol.
    """
    modes = protocol_modes(name)
    return (_SEARCH_ALL,) if _SEARCH_ALL in modes else modes


def require_cameras(rules: Protocol, camera_ids: Tensor, part: str = "") -> None:
    """Raise ValueError if a camera is unknown where the protocol draws or drops by camera.

    Args:
        rules: The protocol.
        camera_ids: Cameras, -1 where unknown. Shape (N,), int64.
        part: "query" or "gallery" where these are given apart.
    """
    unknown = torch.nonzero(camera_ids == UNKNOWN_CAMERA)
    if rules.needs_cameras and len(unknown):
        others = [name for name, other in PROTOCOLS.items() if not other.needs_cameras]
        require(
            False, rules.name, f"{part} camera_ids".lstrip(),
            "be known, since it draws or drops by camera",
            f"{UNKNOWN_CAMERA} at row {int(unknown[0])}",
            f"Give the array camera_ids, or a protocol that needs none: {', '.join(others)}.",
        )  # fmt: skip
