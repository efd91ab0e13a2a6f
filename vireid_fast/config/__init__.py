"""Configuration: frozen dataclasses, YAML files, overrides. The only reader of configurations.

Unknown keys, wrong types and values out of range are refused with the full key in the message.
"""

from vireid_fast.config.loading import config_from_dict, load_config, presets
from vireid_fast.config.schema import (
    AugmentConfig,
    ClipConfig,
    Config,
    ConfigError,
    CSDNConfig,
    CSDNLossConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PretrainConfig,
    SamplerConfig,
)

__all__ = [
    "AugmentConfig",
    "CSDNConfig",
    "CSDNLossConfig",
    "ClipConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "SamplerConfig",
    "config_from_dict",
    "load_config",
    "presets",
]
