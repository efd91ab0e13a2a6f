"""A word-level vocabulary for CLIP models that are trained from random weights."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vireid_fast._checks import require

_WORD = re.compile(r"\w+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Lower-case words and punctuation marks of a text, in order."""
    return _WORD.findall(text.lower())


class WordVocabulary:
    """Words numbered 1..n, with padding 0, start of text n + 1 and end of text n + 2.

    End of text has the largest id, as in CLIP, so `TextTower.encode_tokens` finds it.

    Args:
        words: Distinct lower-case words, each one word of `split_words`; their order fixes the ids.

    Raises:
        ValueError: No words, a repeated word, or an entry that is not one lower-case word.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        require(len(self.words) > 0, "WordVocabulary", "words", "hold a word", "none")
        for word in self.words:
            require(
                isinstance(word, str) and split_words(word) == [word],
                "WordVocabulary", "every word", "be one lower-case word", repr(word),
                "Use WordVocabulary.from_texts for texts.",
            )  # fmt: skip
        self._ids = {word: index for index, word in enumerate(self.words, start=1)}
        repeated = [word for word, count in Counter(self.words).items() if count > 1]
        require(not repeated, "WordVocabulary", "words", "be distinct", repeated)
        self.pad = 0
        self.sos = len(self.words) + 1
        self.eot = len(self.words) + 2

    @classmethod
    def from_texts(cls, texts: Iterable[str], extra: Iterable[str] = ()) -> "WordVocabulary":
        """Vocabulary of all words of `texts` and the words `extra`, in alphabetical order."""
        return cls(sorted({word for text in texts for word in split_words(text)} | set(extra)))

    def __len__(self) -> int:
        """Number of ids, specials included: the model's `vocabulary_size`."""
        return len(self.words) + 3

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def id_of(self, word: str) -> int:
        """Id of a lower-case word.

        Raises:
            ValueError: The word is not in the vocabulary.
        """
        require(
            word in self._ids, "WordVocabulary", "word",
            f"be one of the {len(self.words)} words of the vocabulary", repr(word),
            "Build the vocabulary from texts that hold it.",
        )  # fmt: skip
        return self._ids[word]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, from start to end of text; an unknown word raises ValueError."""
        return [self.sos, *(self.id_of(word) for word in split_words(text)), self.eot]

    def encode_batch(self, texts: Sequence[str], context_length: int) -> Tensor:
        """Ids of texts, padded to one length.

        Args:
            texts: B texts of known words.
            context_length: L, the columns of the result.

        Returns:
            Ids of shape (B, L), int64.

        Raises:
            ValueError: A text is longer than L tokens or has an unknown word.
        """
        ids = torch.full((len(texts), context_length), self.pad, dtype=torch.int64)
        for row, text in enumerate(texts):
            encoded = self.encode(text)
            require(
                len(encoded) <= context_length, "encode_batch", f"text {text!r}",
                f"have at most {context_length} tokens", len(encoded),
                "Shorten it, or build the model with a larger context_length.",
            )  # fmt: skip
            ids[row, : len(encoded)] = torch.tensor(encoded)
        return ids

    def to_list(self) -> list[str]:
        """The words in the order of their ids; `WordVocabulary(words)` restores the vocabulary."""
        return list(self.words)
