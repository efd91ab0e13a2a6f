"""What every part of the configuration is made of."""

from vireid_fast._checks import sentence


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def ensure(condition: bool, key: str, requirement: str, got: object, remedy: str = "") -> None:
    """Raise ConfigError with the house sentence unless `condition` holds."""
    if not condition:
        # A damaged file may hold anything as a value.
        raise ConfigError(sentence("config", key, requirement, str(got)[:300], remedy))


class Section:
    """A part of the configuration that knows the ranges of its values.

    A section does not know under which keys it stands (an `OptimizerConfig` stands under three),
    so `Config` checks all of them when it is made and says where they stand.
    """

    def check(self, prefix: str) -> None:
        """Raise ConfigError where a value is out of range; `prefix` is like "csdn.visual."."""

    def _positive(self, prefix: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            ensure(value > 0, prefix + name, "be positive", value)

    def _not_negative(self, prefix: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            ensure(value >= 0, prefix + name, "be 0 or more", value)

    def _choice(self, prefix: str, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        ensure(value in choices, prefix + name, f"be one of {list(choices)}", repr(value))
