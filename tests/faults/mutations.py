"""Damaged copies of files: bytes torn, flipped, spliced and counted wrong; tokens of texts changed.

Hypothesis draws them from a fixed seed, so that every run checks the same files. The first ones of
a list are small damages, later ones have up to four at once.
"""

import re
import struct
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Damage = Callable[[st.DrawFn, bytes], bytes]

# What a length or an offset is replaced by.
LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1,
           (1 << 64) - 1)  # fmt: skip
# What a token of a text is replaced by.
WORDS = (
    "", "0", "-1", "1e999", "NaN", "-Infinity", "null", "true", "[]", "{}", '""', "9" * 30,
    "9" * 5000, "1.5", "é", "\ufeff", "\x00", "\x1b[31m", "../../x", "/etc/passwd", "[" * 2000,
    "{" * 2000, "'", '"', ",", ":", "\n", "\t", "&a [*a]",
    "!!python/object/apply:os.system ['id']", "x" * 20000, "0001", "2147483648",
    "-9223372036854775809", "<<", "__class__",
)  # fmt: skip


def damaged(samples: Sequence[bytes], count: int, *, text: bool = False) -> list[bytes]:
    """Damaged copies of files.

    Args:
        samples: Whole files of one kind.
        count: How many copies.
        text: Also change tokens, as of JSON, YAML, CSV and lists.

    Returns:
        `count` different files, the same in every run.
    """
    kinds = (*BINARY, *TEXT) if text else BINARY
    found: dict[bytes, None] = {}

    @seed(len(samples))
    @settings(
        max_examples=4 * count, derandomize=False, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(_damage(samples, kinds))
    def draw(content: bytes) -> None:
        if len(found) < count and content not in samples:
            found[content] = None

    draw()
    return list(found)


@st.composite
def _damage(draw: st.DrawFn, samples: Sequence[bytes], kinds: Sequence[Damage]) -> bytes:
    content = draw(st.sampled_from(samples))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        content = draw(st.sampled_from(kinds))(draw, content)
    return content


def _place(draw: st.DrawFn, content: bytes, room: int = 0) -> int:
    """An offset, the head and the end of the file more often than the rest."""
    last = max(len(content) - room, 0)
    near = min(last, 200)
    return draw(
        st.one_of(
            st.integers(0, last), st.integers(0, near), st.integers(last - near, last)
        )
    )  # fmt: skip


def truncate(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def flip_bits(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.sampled_from((1, 1, 2, 8))) if content else 0):
        changed[_place(draw, content, 1)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def overwrite(draw: st.DrawFn, content: bytes) -> bytes:
    size = draw(st.sampled_from((1, 4, 16, 256, 4096)))
    fill = draw(st.one_of(st.sampled_from((b"\0", b"\xff", b" ", b"A")), st.binary(min_size=3)))
    start = _place(draw, content)
    return content[:start] + (fill * size)[:size] + content[start + size :]


def set_length(draw: st.DrawFn, content: bytes) -> bytes:
    """Attack 2, 4 or 8 bytes that may be a length, in either byte order."""
    code, size = draw(st.sampled_from((("H", 2), ("I", 4), ("Q", 8))))
    value = draw(st.sampled_from(LENGTHS)) & ((1 << 8 * size) - 1)
    start = _place(draw, content, size)
    field = struct.pack(draw(st.sampled_from("<>")) + code, value)
    return content[:start] + field + content[start + size :]


def duplicate(draw: st.DrawFn, content: bytes) -> bytes:
    start, size = _place(draw, content), draw(st.integers(1, 512))
    times = draw(st.sampled_from((1, 1, 2, 50)))
    return content[:start] + content[start : start + size] * times + content[start:]


def remove(draw: st.DrawFn, content: bytes) -> bytes:
    start = _place(draw, content)
    return content[:start] + content[start + draw(st.integers(1, 512)) :]


def splice(draw: st.DrawFn, content: bytes) -> bytes:
    """The head of the file, then another part of it."""
    return content[: _place(draw, content)] + content[_place(draw, content) :]


def insert(draw: st.DrawFn, content: bytes) -> bytes:
    start = _place(draw, content)
    return content[:start] + draw(st.binary(min_size=1, max_size=64)) + content[start:]


_TOKEN = re.compile(rb"\"[^\"\n]{0,200}\"|[-+.\w]+|[^\w\s]")


def replace_token(draw: st.DrawFn, content: bytes) -> bytes:
    """Replace a string, a word, a number or a mark."""
    tokens = list(_TOKEN.finditer(content[:65536]))
    if not tokens:
        return content
    token = tokens[draw(st.integers(0, len(tokens) - 1))]
    word = draw(st.sampled_from(WORDS)).encode()
    return content[: token.start()] + word + content[token.end() :]


def change_digit(draw: st.DrawFn, content: bytes) -> bytes:
    """Another digit, which leaves the file well-formed."""
    digits = [match.start() for match in re.finditer(rb"[0-9]", content[:65536])]
    if not digits:
        return content
    place = digits[draw(st.integers(0, len(digits) - 1))]
    return content[:place] + str(draw(st.integers(0, 9))).encode() + content[place + 1 :]


def repeat_line(draw: st.DrawFn, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    line, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    return b"".join([*lines[:to], lines[line], *lines[to:]])


def encode_otherwise(draw: st.DrawFn, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(draw(st.sampled_from(("utf-16", "utf-32", "utf-7", "utf-8-sig"))))


BINARY: tuple[Damage, ...] = (
    truncate, flip_bits, flip_bits, overwrite, set_length, duplicate, remove, splice, insert,
)  # fmt: skip
TEXT: tuple[Damage, ...] = (
    replace_token, replace_token, replace_token, change_digit, repeat_line, encode_otherwise,
)  # fmt: skip
