"""Custom prompt templates, tokenised with a tokenizer file of the user's."""

from pathlib import Path
from typing import Any

from vireid_fast._checks import require
from vireid_fast.clip.templates import CONTEXT_MARK, PromptTemplate
from vireid_fast.clip.vocabulary import split_words

SOS_TOKEN, EOT_TOKEN = "<|startoftext|>", "<|endoftext|>"


def _load_tokenizer(path: str | Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise RuntimeError(
            "custom_template: the package tokenizers must be installed to write a custom template, "
            "got none. Run: pip install tokenizers"
        ) from error
    require(
        Path(path).is_file(), "custom_template", "tokenizer_path",
        "be the tokenizer.json of a CLIP model", path,
        "Pass the file that stands beside the weights in the Hugging Face layout.",
        FileNotFoundError,
    )  # fmt: skip
    try:
        return Tokenizer.from_file(str(path))
    # The library raises bare Exception for every malformed file.
    except Exception as error:
        raise ValueError(
            f"custom_template: {path} must be a tokenizer.json, got one that cannot be read: "
            f"{error}. Fetch the file again."
        ) from error


def custom_template(text: str, tokenizer_path: str | Path) -> PromptTemplate:
    """Tokenise a prompt of your own, in which each X marks one learned context token.

    Args:
        text: For example "A photo of a X X X X person." The marks are upper case, adjacent words.
        tokenizer_path: `tokenizer.json` (Hugging Face) of the CLIP model that is used. The
            templates in `TEMPLATES` need no such file.

    Returns:
        The template, called "custom".

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The package `tokenizers` is not installed.
        ValueError: The text has no marks or they are apart, or the tokenizer is not CLIP's kind.
    """
    words = text.split()
    marks = [index for index, word in enumerate(words) if word == CONTEXT_MARK]
    require(
        len(marks) > 0 and marks[-1] - marks[0] == len(marks) - 1,
        "custom_template", "text", "hold adjacent context marks X", repr(text),
        'Write for example "A photo of a X X X X person."',
    )  # fmt: skip
    tokenizer = _load_tokenizer(tokenizer_path)
    specials = [tokenizer.token_to_id(token) for token in (SOS_TOKEN, EOT_TOKEN)]
    require(
        None not in specials, "custom_template", str(tokenizer_path),
        f"know the tokens {SOS_TOKEN} and {EOT_TOKEN}", tokenizer_path,
        "Use the tokenizer of a CLIP model.",
    )  # fmt: skip
    # CLIP's tokenizer splits at white space first, so the parts can be encoded one by one.
    head, tail = " ".join(words[: marks[0]]), " ".join(words[marks[-1] + 1 :])
    before, context, after = (
        tokenizer.encode(part, add_special_tokens=False).ids
        for part in (head, " ".join(CONTEXT_MARK for _ in marks), tail)
    )
    require(
        len(context) == len(marks), "custom_template", "text", "give one token per mark X",
        f"{len(context)} tokens for {len(marks)} marks", "Use the tokenizer of a CLIP model.",
    )  # fmt: skip
    token_ids = (specials[0], *before, *context, *after, specials[1])
    return PromptTemplate(
        name="custom",
        words=(*split_words(head), *(CONTEXT_MARK for _ in marks), *split_words(tail)),
        token_ids=token_ids,
        context_start=1 + len(before),
        context_length=len(marks),
        eot=len(token_ids) - 1,
    )
