"""Prompt templates as data: words, CLIP token ids, where the learned context stands, and EOT."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vireid_fast._checks import require

if TYPE_CHECKING:
    from vireid_fast.clip.vocabulary import WordVocabulary

CONTEXT_MARK = "X"
# Ids of CLIP's byte-pair vocabulary (openai/CLIP@d05afc4); X is the placeholder of CoOp's prompts.
CLIP_SOS, CLIP_EOT, CLIP_CONTEXT_MARK = 49406, 49407, 343
_CLIP_IDS = {
    "a": 320, "an": 550, "photo": 1125, "of": 539, "visible": 8626, "infrared": 22867,
    "person": 2533, "observed": 21267, "in": 530, "both": 2212, "day": 575, "and": 537,
    "night": 930, "conditions": 5892, ".": 269, CONTEXT_MARK: CLIP_CONTEXT_MARK,
}  # fmt: skip


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt whose context tokens are learned.

    Attributes:
        name: Key in `TEMPLATES`, or "custom".
        words: The words between the special tokens; "X" marks a context token.
        token_ids: CLIP token ids from start of text to end of text (EOT), both included.
        context_start: Index of the first context token in `token_ids`.
        context_length: Number M of context tokens; they are adjacent.
        eot: Index of EOT, which is also the last index.
    """

    name: str
    words: tuple[str, ...]
    token_ids: tuple[int, ...]
    context_start: int
    context_length: int
    eot: int

    @property
    def length(self) -> int:
        """Tokens up to and including EOT; tokens after it cannot change the text feature."""
        return self.eot + 1

    @property
    def context_positions(self) -> range:
        """Indices of the context tokens in `token_ids`."""
        return range(self.context_start, self.context_start + self.context_length)

    def with_context_length(self, length: int) -> "PromptTemplate":
        """The same words around another number of context tokens, 0 or more."""
        require(length >= 0, "with_context_length", "length", "be 0 or more", length)
        start, end = self.context_start, self.context_start + self.context_length
        return PromptTemplate(
            name=self.name,
            words=(*self.words[: start - 1], *[CONTEXT_MARK] * length, *self.words[end - 1 :]),
            token_ids=(
                *self.token_ids[:start], *[CLIP_CONTEXT_MARK] * length, *self.token_ids[end:]
            ),
            context_start=start,
            context_length=length,
            eot=self.eot + length - self.context_length,
        )  # fmt: skip

    def ids_for(self, vocabulary: "WordVocabulary") -> tuple[int, ...]:
        """Token ids of this template in a word vocabulary.

        Args:
            vocabulary: Holds every word but the marks; these become padding, since learned context
                takes their place.

        Returns:
            Ids from start to end of text; `context_start`, `context_length` and `eot` apply to it
            as they do to `token_ids`.

        Raises:
            ValueError: A word is not in the vocabulary, or the template has words that CLIP's
                tokenizer splits, so that the positions would not fit.
        """
        require(
            len(self.words) + 2 == len(self.token_ids),
            "ids_for", f"template {self.name!r}", "have one token per word",
            f"{len(self.token_ids) - 2} tokens for {len(self.words)} words",
            "Choose words that the tokenizer keeps whole.",
        )  # fmt: skip
        inner = tuple(
            vocabulary.pad if word == CONTEXT_MARK else vocabulary.id_of(word)
            for word in self.words
        )
        return (vocabulary.sos, *inner, vocabulary.eot)


def _template(name: str, text: str) -> PromptTemplate:
    words = tuple(text.split())
    token_ids = (CLIP_SOS, *(_CLIP_IDS[word] for word in words), CLIP_EOT)
    return PromptTemplate(
        name=name,
        words=words,
        token_ids=token_ids,
        context_start=1 + words.index(CONTEXT_MARK),
        context_length=words.count(CONTEXT_MARK),
        eot=len(token_ids) - 1,
    )


# "person": CLIP-ReID and CSDN; "visible", "infrared": SAMCL; "day_night": VLD.
TEMPLATES: dict[str, PromptTemplate] = {
    name: _template(name, text)
    for name, text in {
        "person": "a photo of a X X X X person .",
        "visible": "a visible photo of a X X X X person .",
        "infrared": "an infrared photo of a X X X X person .",
        "day_night": "a X X X X person observed in both day and night conditions .",
    }.items()
}

# What a word vocabulary must hold so that every template can be written in it.
TEMPLATE_WORDS: tuple[str, ...] = tuple(sorted(set(_CLIP_IDS) - {CONTEXT_MARK}))
