"""Configuration: frozen dataclasses, YAML files, overrides. The only reader of configurations.

Unknown keys, wrong types and values out of range are refused with the full key in the message.
"""

from vireid_fast.config.clip4vi_reid import CLIP4VIReIDConfig, HSALossConfig, IFELossConfig
from vireid_fast.config.clip_mc import CLIPMCConfig, CLIPMCLossConfig
from vireid_fast.config.common import (
    AugmentConfig,
    ClipConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PretrainConfig,
    SamplerConfig,
    VideoConfig,
    VisualLossConfig,
)
from vireid_fast.config.csdn import CSDNConfig, CSDNLossConfig
from vireid_fast.config.loading import config_from_dict, load_config, presets
from vireid_fast.config.lsmrl import LSMRLConfig, LSMRLLossConfig
from vireid_fast.config.schema import METHODS, Config
from vireid_fast.config.section import ConfigError

__all__ = [
    "METHODS",
    "AugmentConfig",
    "CLIP4VIReIDConfig",
    "CLIPMCConfig",
    "CLIPMCLossConfig",
    "CSDNConfig",
    "CSDNLossConfig",
    "ClipConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "HSALossConfig",
    "IFELossConfig",
    "LSMRLConfig",
    "LSMRLLossConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "SamplerConfig",
    "VideoConfig",
    "VisualLossConfig",
    "config_from_dict",
    "load_config",
    "presets",
]
