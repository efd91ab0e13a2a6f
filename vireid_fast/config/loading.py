"""Reading of configurations: YAML files, presets, overrides; every key and type is checked."""

import dataclasses
import difflib
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vireid_fast._checks import sentence
from vireid_fast.config.schema import Config
from vireid_fast.config.section import ConfigError, ensure


def presets() -> list[str]:
    """Names of the configurations that ship with the package, such as "csdn/sysu_mm01"."""
    root = resources.files("vireid_fast.configs")
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


def _read(source: str | Path) -> tuple[bytes, str]:
    path = Path(source)
    if path.is_file():
        return path.read_bytes(), str(path)
    if str(source) in presets():
        folder, name = str(source).split("/")
        file = resources.files("vireid_fast.configs") / folder / f"{name}.yaml"
        return file.read_bytes(), str(source)
    close = difflib.get_close_matches(str(source), presets(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        sentence("config", "file", f"exist or be one of {presets()}", repr(str(source))) + hint
    )


def load_config(source: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a configuration and apply overrides.

    Args:
        source: A YAML file, or the name of a preset such as "csdn/scene_regions".
        overrides: Strings "section.key=value"; values are read as YAML.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: Unknown key (with the nearest one), wrong type, value out of range, or a file
            that is absent or no YAML mapping.
    """
    data, name = _read(source)
    try:
        values = yaml.safe_load(data.decode("utf-8")) or {}
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config: {name} must be YAML, got {error}.") from error
    ensure(isinstance(values, dict), name, "hold a mapping of keys", type(values).__name__)
    for override in overrides:
        _apply(values, override)
    return _build(Config, values, "")


def config_from_dict(values: dict[str, Any]) -> Config:
    """Build a configuration from nested plain values, with the checks of `load_config`."""
    return _build(Config, values, "")


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    ensure(bool(separator) and bool(key), "override", "look like section.key=value", repr(override))
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        ensure(isinstance(values, dict), key, "name a section before the dot", repr(override))
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {key} must be a YAML value, got {text!r}.") from error


def _build(owner: type, values: dict[Any, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(owner)
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise ConfigError(
                f"config: unknown key {prefix}{key}. The nearest key is {prefix}{close[0]}."
            )
    arguments = {k: _convert(hints[k], v, f"{prefix}{k}") for k, v in values.items()}
    return owner(**arguments)


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        ensure(isinstance(value, dict), key, "be a section of keys", repr(value))
        return _build(typing.cast(type, hint), value, f"{key}.")
    if typing.get_origin(hint) is tuple:
        ensure(isinstance(value, list | tuple), key, "be a list", repr(value))
        return tuple(_convert(typing.get_args(hint)[0], v, key) for v in value)
    return _scalar(hint, value, key)


def _scalar(hint: type, value: Any, key: str) -> Any:
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text; it is a number for everyone else.
        try:
            value = float(value)
        except ValueError:
            ensure(False, key, "be a number", repr(value))
    if hint is float and type(value) is int:
        value = float(value)
    kinds: dict[type, str] = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
    }  # fmt: skip
    ensure(type(value) is hint, key, f"be {kinds[hint]}", repr(value))
    if hint is float:
        ensure(value == value and abs(value) != float("inf"), key, "be finite", value)
    return value


