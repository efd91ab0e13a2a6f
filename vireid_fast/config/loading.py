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

# Configurations are written by hand; more is something else.
_MAX_BYTES = 1 << 20
_MAX_VALUES = 10_000


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
        ConfigError: Unknown key (with the nearest one), wrong type, value out of range, a key that
            stands twice, or a file that is absent, too large or no YAML mapping.
    """
    data, name = _read(source)
    ensure(len(data) <= _MAX_BYTES, name, f"have at most {_MAX_BYTES:,} bytes", f"{len(data):,}")
    try:
        values = _parse(data.decode("utf-8"))
    # PyYAML's constructors also raise ValueError, as for a date in a month 13.
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config: {name} must be YAML, got {_one_line(error)}.") from error
    values = {} if values is None else values
    ensure(isinstance(values, dict), name, "hold a mapping of keys", type(values).__name__)
    for override in overrides:
        _apply(values, override)
    try:
        return _build(Config, values, "")
    except ConfigError as error:
        raise ConfigError(f"{error} The configuration is {name}.") from error


def _parse(text: str) -> Any:
    """Plain values of a YAML text; nothing in it is executed.

    Raises:
        yaml.YAMLError: It is no YAML, names another type, has a key twice in one section, or grows
            by its aliases.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _weigh(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _weigh(node: yaml.Node, weights: dict[int, int]) -> int:
    """Number of values that a node stands for, those of its aliases counted each time."""
    if id(node) in weights:
        return weights[id(node)]
    # A node that is met again while it is weighed holds itself.
    weights[id(node)] = _MAX_VALUES
    parts = node.value if isinstance(node, yaml.SequenceNode) else ()
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value[:40]!r} twice in one section"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        parts = [part for pair in node.value for part in pair]
    weight = 1 + sum(_weigh(part, weights) for part in parts)
    if weight > _MAX_VALUES:
        problem = f"aliases that stand for more than {_MAX_VALUES:,} values"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    weights[id(node)] = weight
    return weight


def _one_line(error: Exception) -> str:
    """What is wrong, and where, in one line; PyYAML draws a picture of it."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" in line {mark.line + 1}"
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()) + where


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
        values[last] = _parse(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config: {key} must be a YAML value, got {text!r}.") from error


def _build(owner: type, values: dict[Any, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(owner)
    for key in values:
        if key not in hints:
            name = str(key) if str(key).isprintable() else repr(key)
            close = difflib.get_close_matches(name[:100], hints, n=1, cutoff=0.0)
            raise ConfigError(
                f"config: unknown key {prefix}{name[:100]}. The nearest key is {prefix}{close[0]}."
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
    if type(value) is int:
        ensure(abs(value) < 1 << 63, key, "fit 64 bits", value)
    if hint is float and type(value) is int:
        value = float(value)
    kinds: dict[type, str] = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
    }  # fmt: skip
    ensure(type(value) is hint, key, f"be {kinds[hint]}", repr(value))
    if hint is float:
        ensure(value == value and abs(value) != float("inf"), key, "be finite", value)
    if hint is str:
        # No file system takes it, and Python's refusal would not name the key.
        ensure("\0" not in value, key, "hold no NUL character", repr(value))
    return value


