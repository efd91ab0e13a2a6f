"""Plans of what prompts share: checked by spelling the prefixes out again."""

import random

import pytest

from vireid_fast.nn.prompt_trie import build_trie, group_texts

CASES = [
    [],
    [()],
    [(1, 2, 3)],
    [(1, 2, 3), (1, 2, 3)],
    [(1, 2, 3), (1, 2), (1,), ()],
    [(1, 2, 3, 4), (1, 2, 5), (1, 2, 5, 6), (7,)],
]


@pytest.mark.parametrize("prefixes", CASES, ids=str)
def test_paths_spell_the_prefixes(prefixes):
    trie = build_trie(prefixes)
    tokens = [None] * trie.num_tokens
    for node in trie.nodes:
        # A node comes after all tokens it looks back at.
        assert all(last <= node.start for _, last in node.path)
        assert sum(last - first for first, last in node.path) == node.first
        tokens[node.start : node.start + node.length] = prefixes[node.group][node.first : node.last]
    assert None not in tokens
    for prefix, path in zip(prefixes, trie.paths, strict=True):
        assert tuple(token for first, last in path for token in tokens[first:last]) == prefix
    beginnings = {prefix[: end + 1] for prefix in prefixes for end in range(len(prefix))}
    assert trie.num_tokens == len(beginnings)


@pytest.mark.parametrize("seed", range(5))
def test_groups_share_what_they_say(seed):
    random.seed(seed)
    texts = {
        (0, *(random.randrange(3) for _ in range(random.randrange(1, 6))), 9) for _ in range(200)
    }
    texts = [*texts, (0, 9), (9,)]
    groups = group_texts(texts)
    assert sorted(index for _, members in groups for index in members) == list(range(len(texts)))
    for shared, members in groups:
        assert len({texts[index][:shared] for index in members}) == 1
        assert len({len(texts[index]) for index in members}) == 1
        assert 0 <= shared < len(texts[members[0]])


def test_templates_of_equal_length_are_told_apart_when_it_pays():
    shared = [(0, kind, 5, 5, 5, 5, word, 9) for kind in (1, 2) for word in range(20, 50)]
    assert sorted(len(members) for _, members in group_texts(shared)) == [30, 30]
    assert [length for length, _ in group_texts(shared)] == [6, 6]
    # Texts that all differ at once stay together.
    assert len(group_texts([(0, word, 5, 9) for word in range(20, 50)])) == 1
