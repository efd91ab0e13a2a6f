"""What the formats of published checkpoints have in common."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from torch import nn

from vireid_fast.engine.checkpoint import CARD_FILE, CheckpointError
from vireid_fast.engine.imports.settings import (
    ImportOptions,
    NetworkDescription,
    Shapes,
    meta,
    require_buildable,
)
from vireid_fast.engine.model_card import ModelCard
from vireid_fast.ops import Backend


class CheckpointFormat(ABC):
    """One family of published checkpoints.

    Attributes:
        name: Value of `vireid convert --format`, and method of the card.
        repository: Where the code is that writes them.
        marks: Names that all of them have.
        names: Patterns for the beginnings of our names, and what they are in the checkpoint.
        inner_names: Further replacements in the names of the checkpoint.
        dropped: Patterns of names that features do not need, and what these are.
    """

    name: ClassVar[str]
    repository: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[tuple[str, str], ...]]
    inner_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    dropped: ClassVar[tuple[tuple[str, str], ...]]

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a state dict with these names is of this format."""
        return all(mark in names for mark in self.marks)

    def published_name(self, ours: str) -> str:
        """Name in the checkpoint of an entry of our network's state dict."""
        theirs = ours
        for pattern, replacement in self.names:
            match = re.match(pattern, ours)
            if match is not None:
                theirs = replacement + ours[match.end() :]
                break
        for pattern, replacement in self.inner_names:
            theirs = re.sub(pattern, replacement, theirs)
        return theirs

    def reason_to_drop(self, theirs: str) -> str | None:
        """Why features do not need an entry of the checkpoint; None: it is not known."""
        for pattern, reason in self.dropped:
            if re.match(pattern, theirs):
                return reason
        return None

    @abstractmethod
    def describe(self, shapes: Shapes, options: ImportOptions) -> NetworkDescription:
        """Settings of the network, from the shapes of a checkpoint.

        Raises:
            CheckpointError: A tensor is missing or misshaped, or an option is needed.
        """

    @abstractmethod
    def module(self, card: ModelCard, backend: Backend) -> nn.Module:
        """The network that a card describes."""

    def build(self, card: ModelCard, backend: Backend = "fused") -> nn.Module:
        """The network that a card describes, with random weights on the CPU.

        Args:
            card: Its `network` is checked value by value.
            backend: "fused" or "reference".

        Raises:
            CheckpointError: The card asks for something impossible or gigantic.
        """
        require_buildable(self.outline(card))
        return self.module(card, backend)

    def outline(self, card: ModelCard) -> nn.Module:
        """The network that a card describes with shapes and no values."""
        try:
            with meta():
                return self.module(card, "fused")
        except CheckpointError:
            raise
        # The modules' own refusals do not name the card.
        except ValueError as error:
            raise CheckpointError(
                f"checkpoint: {CARD_FILE} must describe a network that can be built: {error}"
            ) from error
