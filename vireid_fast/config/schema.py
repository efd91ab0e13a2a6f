"""The settings of a run as frozen dataclasses, with the range of every value."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vireid_fast._files import atomic_write
from vireid_fast.config.clip4vi_reid import CLIP4VIReIDConfig
from vireid_fast.config.clip_mc import CLIPMCConfig
from vireid_fast.config.common import (
    AugmentConfig,
    ClipConfig,
    DataConfig,
    EvaluationConfig,
    PretrainConfig,
    SamplerConfig,
    VideoConfig,
)
from vireid_fast.config.csdn import CSDNConfig
from vireid_fast.config.lsmrl import LSMRLConfig
from vireid_fast.config.section import Section

METHODS: dict[str, type[Section]] = {
    "csdn": CSDNConfig,
    "clip4vi_reid": CLIP4VIReIDConfig,
    "clip_mc": CLIPMCConfig,
    "lsmrl": LSMRLConfig,
}
"""Method name, which is also the key of its section -> the dataclass of the section."""


@dataclass(frozen=True)
class Config(Section):
    """Everything that defines a run."""

    method: str = "csdn"
    seed: int = 1
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves torch's choice. Bitwise resume needs the same number."""
    backend: str = "fused"
    """What the method runs on: "fused", the package's kernels and layers that skip what nobody
    reads, or "reference", the plain forms they are checked against. Losses differ by rounding."""
    precision: str = "auto"
    """Number format of the encoders' products: "float32", "bfloat16" (losses and weights stay
    float32), or "auto": bfloat16 on a GPU, float32 on a CPU."""
    accumulate: int = 1
    """Batches whose gradients are averaged before each step of the optimiser."""
    start_from: str = ""
    """Run whose latest weights training starts from, such as a visual warm-up, of the same
    identities; of another method the image encoder, the text tower and the necks are taken. Empty:
    `clip.weights` alone."""
    data: DataConfig = field(default_factory=DataConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    csdn: CSDNConfig = field(default_factory=CSDNConfig)
    clip4vi_reid: CLIP4VIReIDConfig = field(default_factory=CLIP4VIReIDConfig)
    clip_mc: CLIPMCConfig = field(default_factory=CLIPMCConfig)
    lsmrl: LSMRLConfig = field(default_factory=LSMRLConfig)

    def __post_init__(self) -> None:
        _check_sections(self, "")

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._choice(prefix, "method", tuple(sorted(METHODS)))
        self._choice(prefix, "backend", ("fused", "reference"))
        self._choice(prefix, "precision", ("auto", "float32", "bfloat16"))
        self._positive(prefix, "accumulate")
        self._not_negative(prefix, "seed", "threads")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as YAML holds them."""
        return _plain(dataclasses.asdict(self))

    def save(self, path: Path) -> None:
        """Write the resolved configuration as YAML, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def _check_sections(section: Section, prefix: str) -> None:
    section.check(prefix)
    for entry in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, entry.name)
        if isinstance(value, Section):
            _check_sections(value, f"{prefix}{entry.name}.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
