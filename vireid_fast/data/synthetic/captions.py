"""Sentences about a person in a small fixed vocabulary; the words are separated by spaces."""

from vireid_fast._checks import require
from vireid_fast.data.synthetic.attributes import COLOURS, HAIR_COLOURS, Attributes
from vireid_fast.data.synthetic.cameras import INFRARED, VISIBLE

TEMPLATE_WORDS = (
    "a", "an", "the", "photo", "of", "visible", "infrared", "person", ".", "observed", "in", "both",
    "day", "and", "night", "conditions",
)  # fmt: skip
_DESCRIPTION_WORDS = (
    "tall", "short", "slim", "broad", "with", "wearing", "carrying", "bald", "head", "long", "hair",
    "ponytail", "cap", "hood", "open", "striped", "banded", "printed", "belted", "t-shirt",
    "sweater", "jacket", "hoodie", "vest", "coat", "dress", "trousers", "wide", "shorts", "skirt",
    "sneakers", "boots", "backpack", "shoulder", "bag", "handbag", "suitcase", "umbrella", "box",
)  # fmt: skip
# Every word of every caption and of the prompt templates, without repetition.
CAPTION_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*TEMPLATE_WORDS, *_DESCRIPTION_WORDS, *COLOURS, *HAIR_COLOURS))
)

# Longest caption, the final "." included.
MAXIMUM_WORDS = 32
# Body heights in metres above and below which a caption says so.
TALL, SHORT = 1.78, 1.62


def caption(attributes: Attributes, modality: int) -> str:
    """Describe a person as one camera type sees them.

    Args:
        attributes: The person.
        modality: 0 visible, 1 infrared. Only visible captions name colours.

    Returns:
        Lower-case words and a final "." separated by single spaces, at most MAXIMUM_WORDS of
        them, all in `CAPTION_WORDS`: "a photo of a broad person with long hair wearing ..."

    Raises:
        ValueError: `modality` is neither 0 nor 1.
    """
    require(
        modality in (VISIBLE, INFRARED), "caption", "modality", "be 0 (visible) or 1 (infrared)",
        modality,
    )  # fmt: skip
    names = attributes.colour_names if modality == VISIBLE else ("",) * 5
    hair, upper, lower, shoes, carried = names
    words = ["a", "photo", "of", _with_article(_figure(attributes)), "person", "with"]
    words += [_hair(attributes, hair), "wearing", _with_article(_upper(attributes, upper))]
    if attributes.lower != "none":
        garment = f"{lower} {attributes.lower}".strip()
        words += ["and", _with_article(garment) if attributes.lower == "skirt" else garment]
    words += ["with", f"{shoes} {attributes.shoes}".strip()]
    if attributes.carried != "nothing":
        words += ["carrying", _with_article(f"{carried} {attributes.carried}".strip())]
    return " ".join([*(word for word in words if word), "."])


def _with_article(phrase: str) -> str:
    if not phrase:
        return "a"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _figure(person: Attributes) -> str:
    height = "tall" if person.height > TALL else "short" if person.height < SHORT else ""
    build = "" if person.build == "average" else person.build
    return f"{height} {build}".strip()


def _hair(person: Attributes, colour: str) -> str:
    if person.hair == "bald":
        return "a bald head"
    if person.hair in ("cap", "hood"):
        return f"a {person.hair}"
    if person.hair == "ponytail":
        return _with_article(f"{colour} ponytail".strip())
    return " ".join(f"{person.hair} {colour} hair".split())


def _upper(person: Attributes, colour: str) -> str:
    words = [
        "open" if person.is_open else "",
        colour,
        "belted" if person.has_belt else "",
        "" if person.pattern == "plain" else person.pattern,
        "long" if person.upper == "coat" else "",
        person.upper,
    ]
    return " ".join(word for word in words if word)
