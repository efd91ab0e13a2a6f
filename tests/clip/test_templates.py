"""Templates, the word vocabulary and custom templates."""

import sys

import pytest
import torch

from vireid_fast.clip import (
    TEMPLATE_WORDS,
    TEMPLATES,
    WordVocabulary,
    build_clip,
    custom_template,
    split_words,
)

# Words and CLIP ids of each template, start and end of text included.
EXPECTED = {
    "person": (
        "a photo of a X X X X person .",
        [49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407],
        5,
    ),
    "visible": (
        "a visible photo of a X X X X person .",
        [49406, 320, 8626, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407],
        6,
    ),
    "infrared": (
        "an infrared photo of a X X X X person .",
        [49406, 550, 22867, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407],
        6,
    ),
    "day_night": (
        "a X X X X person observed in both day and night conditions .",
        [49406, 320, 343, 343, 343, 343, 2533, 21267, 530, 2212, 575, 537, 930, 5892, 269, 49407],
        2,
    ),
}
LENGTHS = {"person": 12, "visible": 13, "infrared": 13, "day_night": 16}


@pytest.fixture
def vocabulary() -> WordVocabulary:
    return WordVocabulary.from_texts(["A tall man, with a red bag."], extra=TEMPLATE_WORDS)


@pytest.fixture
def tokenizer_file(tmp_path):
    """A word-level stand-in for CLIP's tokenizer, with CLIP's ids for the words it knows."""
    tokenizers = pytest.importorskip("tokenizers", reason="custom templates need tokenizers")
    words = " ".join(text for text, _, _ in EXPECTED.values()).lower().split()
    ids = [number for _, numbers, _ in EXPECTED.values() for number in numbers[1:-1]]
    table = dict(zip(words, ids, strict=True))
    table |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<|endoftext|>"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_template_ids_fit_the_words(name):
    text, ids, context_start = EXPECTED[name]
    template = TEMPLATES[name]
    assert template.name == name and list(template.words) == text.split()
    assert list(template.token_ids) == ids
    assert (template.context_start, template.context_length) == (context_start, 4)
    assert template.length == LENGTHS[name] == len(ids) and template.eot == len(ids) - 1
    assert [ids[i] for i in template.context_positions] == [343] * 4
    assert torch.tensor(ids).argmax() == template.eot


def test_there_are_four_templates():
    assert set(TEMPLATES) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_template_in_a_word_vocabulary(name, vocabulary):
    template = TEMPLATES[name]
    ids = template.ids_for(vocabulary)
    assert len(ids) == len(template.token_ids) and ids.index(max(ids)) == template.eot
    for index in template.context_positions:
        assert ids[index] == vocabulary.pad
    plain = [vocabulary.words[i - 1] for i in ids[1:-1] if i]
    assert plain == [word for word in template.words if word != "X"]


def test_vocabulary_encodes_and_restores(vocabulary):
    ids = vocabulary.encode("a RED bag, a man.")
    assert ids[0] == vocabulary.sos and ids[-1] == vocabulary.eot == len(vocabulary) - 1
    words = [vocabulary.words[i - 1] for i in ids[1:-1]]
    assert words == ["a", "red", "bag", ",", "a", "man", "."] == split_words("a RED bag, a man.")
    assert "tall" in vocabulary and "dog" not in vocabulary
    again = WordVocabulary(vocabulary.to_list())
    assert again.to_list() == vocabulary.to_list() and again.encode("a man") == [
        vocabulary.sos, vocabulary.id_of("a"), vocabulary.id_of("man"), vocabulary.eot,
    ]  # fmt: skip


@torch.no_grad()
def test_batch_of_texts_goes_through_the_text_tower(vocabulary):
    model = build_clip("ViT-small", vocabulary_size=len(vocabulary), context_length=10)
    texts = ["a red bag", "a tall man with a bag ."]
    ids = vocabulary.encode_batch(texts, 10)
    assert ids.shape == (2, 10) and ids.dtype == torch.int64
    together = model.encode_text(ids)
    for row, text in enumerate(texts):
        alone = model.encode_text(torch.tensor([vocabulary.encode(text)]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_vocabulary_rejects_bad_input(vocabulary):
    with pytest.raises(ValueError, match=r"word must be one of the \d+ words .* got 'dog'"):
        vocabulary.encode("a dog")
    with pytest.raises(ValueError, match=r"text 'a red bag' must have at most 4 tokens, got 5"):
        vocabulary.encode_batch(["a red bag"], 4)
    with pytest.raises(ValueError, match=r"words must be distinct, got \['a'\]"):
        WordVocabulary(["a", "b", "a"])
    with pytest.raises(ValueError, match="be one lower-case word, got 'Red bag'"):
        WordVocabulary(["Red bag"])
    with pytest.raises(ValueError, match="words must hold a word, got none"):
        WordVocabulary([])
    with pytest.raises(ValueError, match="got 'visible'"):
        TEMPLATES["visible"].ids_for(WordVocabulary(["a", "photo"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("person", "A photo of a X X X X person."),
        ("infrared", "An infrared photo of a X X X X person ."),
        ("day_night", "A X X X X person observed in both day and night conditions."),
    ],
)
def test_custom_template_equals_the_table(name, text, tokenizer_file, vocabulary):
    custom, known = custom_template(text, tokenizer_file), TEMPLATES[name]
    assert custom.name == "custom"
    for field in ("words", "token_ids", "context_start", "context_length", "eot"):
        assert getattr(custom, field) == getattr(known, field)
    assert custom.ids_for(vocabulary) == known.ids_for(vocabulary)


def test_custom_template_with_context_at_an_end(tokenizer_file):
    template = custom_template("X X photo", tokenizer_file)
    assert template.token_ids == (49406, 343, 343, 1125, 49407) and template.context_start == 1
    template = custom_template("photo X", tokenizer_file)
    assert template.token_ids == (49406, 1125, 343, 49407) and template.eot == 3


def test_custom_template_rejects_bad_input(tokenizer_file, tmp_path, vocabulary):
    for text in ("a photo", "X photo X", ""):
        with pytest.raises(ValueError, match="text must hold adjacent context marks X"):
            custom_template(text, tokenizer_file)
    with pytest.raises(FileNotFoundError, match=r"tokenizer_path must be the tokenizer\.json"):
        custom_template("a X", tmp_path / "absent.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.json must be a tokenizer\.json, got one"):
        custom_template("a X", broken)
    other = tmp_path / "other.json"
    text = tokenizer_file.read_text(encoding="utf-8").replace("<|startoftext|>", "<s>")
    other.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"must know the tokens <\|startoftext\|>"):
        custom_template("a X", other)


def test_custom_template_names_the_missing_package(monkeypatch, tokenizer_file):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RuntimeError, match="pip install tokenizers"):
        custom_template("a X", tokenizer_file)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("length", [0, 1, 2, 4, 8])
def test_another_number_of_context_tokens_keeps_the_words(name, length):
    template = TEMPLATES[name]
    other = template.with_context_length(length)
    assert [w for w in other.words if w != "X"] == [w for w in template.words if w != "X"]
    assert other.words.count("X") == length == other.context_length
    assert len(other.token_ids) == len(other.words) + 2 == other.length
    marks = {other.token_ids[i] for i in other.context_positions}
    assert marks == ({343} if length else set())
    assert other.token_ids[other.eot] == template.token_ids[template.eot]
    if length == template.context_length:
        assert other == template


def test_a_negative_number_of_context_tokens():
    with pytest.raises(ValueError, match="length must be 0 or more, got -1"):
        TEMPLATES["person"].with_context_length(-1)
