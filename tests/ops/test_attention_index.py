"""AttentionIndex: the rows that each builder lists, checked on the host, remembered, moved."""

import pytest
import torch

from vireid_fast.ops import AttentionIndex
from vireid_fast.ops.cross_modal_attention.blocks import Block, run_lengths
from vireid_fast.ops.cross_modal_attention.rows import (
    fold_slots,
    load_entries,
    spread_rows,
    store_entries,
)
from vireid_fast.testing import grouped_rows


def listed(side):
    """Rows of every sequence, as lists."""
    entries = range(side.num_rows) if side.rows is None else side.rows.tolist()
    spans = zip(side.start.tolist(), side.length.tolist(), strict=True)
    return [list(entries[first : first + length]) for first, length in spans]


def check_blocks(index):
    """The blocks name the same list entries as start and length do."""
    queries, keys = [], []
    for block in index.blocks:
        for s in range(block.sequences):
            queries.append((block.first_query + s * block.query_length, block.query_length))
            keys.append((block.first_key + s * block.key_length, block.key_length))
    for side, spans in ((index.queries, queries), (index.keys, keys)):
        assert spans == list(zip(side.start.tolist(), side.length.tolist(), strict=True))
        assert side.longest == max(length for _, length in spans)


def test_within_lists_consecutive_rows():
    index = AttentionIndex.within([3, 1, 2])
    assert listed(index.queries) == listed(index.keys) == [[0, 1, 2], [3], [4, 5]]
    assert (index.num_queries, index.num_keys, index.max_query, index.max_key) == (6, 6, 3, 3)
    assert index.queries.rows is None and index.keys.rows is None
    check_blocks(index)


def test_cross_exchanges_the_sequences_of_each_pair():
    index = AttentionIndex.cross([1, 2, 2], [3, 3, 1])
    visible, infrared = [[0], [1, 2], [3, 4]], [[5, 6, 7], [8, 9, 10], [11]]
    assert listed(index.queries) == visible + infrared
    assert listed(index.keys) == infrared + visible
    assert index.queries.rows is None and index.keys.rows is None
    assert (index.num_sequences, index.max_query, index.max_key) == (6, 3, 3)
    check_blocks(index)


def test_joint_lists_both_modalities_of_each_pair():
    index = AttentionIndex.joint([1, 2], [3, 2])
    assert listed(index.queries) == listed(index.keys) == [[0, 3, 4, 5], [1, 2, 6, 7]]
    assert (index.num_queries, index.max_query) == (8, 4)
    check_blocks(index)


def test_pairs_counts_query_and_key_rows_apart():
    index = AttentionIndex.pairs([2, 1], [1, 4])
    assert listed(index.queries) == [[0, 1], [2]]
    assert listed(index.keys) == [[0], [1, 2, 3, 4]]
    assert (index.num_queries, index.num_keys, index.max_query, index.max_key) == (3, 5, 2, 4)
    check_blocks(index)


@pytest.mark.parametrize("mode", ["cross", "joint", "self"])
def test_uniform_equals_the_builder_of_its_mode(mode):
    index = AttentionIndex.uniform(mode, 3, 2, 5)
    same = {
        "cross": lambda: AttentionIndex.cross([2] * 3, [5] * 3),
        "joint": lambda: AttentionIndex.joint([2] * 3, [5] * 3),
        "self": lambda: AttentionIndex.within([2] * 3 + [5] * 3),
    }[mode]()
    assert listed(index.queries) == listed(same.queries)
    assert listed(index.keys) == listed(same.keys)
    check_blocks(index)


def test_equal_sequences_form_one_block():
    assert AttentionIndex.within([4, 4, 4]).blocks == (Block(0, 0, 3, 4, 4),)
    assert AttentionIndex.uniform("cross", 2, 3, 5).blocks == (
        Block(0, 6, 2, 3, 5),
        Block(6, 0, 2, 5, 3),
    )
    assert run_lengths([3, 3, 5, 3]) == ((2, 3), (1, 5), (1, 3))


def test_from_rows_keeps_the_lists():
    queries, keys = [[4, 1], [0], [2, 3, 5]], [[1, 1, 0], [3], [2, 0]]
    index = AttentionIndex.from_rows(queries, keys, num_queries=7, num_keys=4)
    assert listed(index.queries) == queries and listed(index.keys) == keys
    assert (index.num_queries, index.num_keys) == (7, 4)
    check_blocks(index)


def test_from_rows_takes_tensors_and_counts_rows():
    index = AttentionIndex.from_rows([torch.tensor([3, 0]), torch.tensor([1])])
    assert listed(index.queries) == [[3, 0], [1]]
    assert index.num_queries == index.num_keys == 4


def test_rows_in_order_need_no_list():
    index = AttentionIndex.from_rows([[0, 1], [2, 3, 4]])
    assert index.queries.rows is None and index.queries.slots is None
    assert AttentionIndex.from_rows([[0, 1]], num_queries=3).queries.rows is not None


def test_slots_are_unique_and_first_occurrences_keep_their_row():
    lists, rows = grouped_rows(clips=2, frames=3, rows=4, columns=2, groups=4)
    index = AttentionIndex.from_rows(lists, num_queries=rows)
    side = index.queries
    assert side.slots.unique().numel() == side.slots.numel()
    assert int(side.slots.max()) < side.num_slots == rows + 6 * 3
    seen = set()
    for row, slot in zip(side.rows.tolist(), side.slots.tolist(), strict=True):
        assert (slot == row) == (row not in seen)
        seen.add(row)


def test_fold_brings_unequal_repeats_together():
    # Row 0 occurs four times, row 2 twice, rows 1 and 3 once, row 4 never.
    lists = [[0, 2], [0, 1, 0], [2, 0, 3]]
    side = AttentionIndex.from_rows(lists, num_queries=5).queries
    entries = torch.randn(8, 2, 3, dtype=torch.float64)
    out = store_entries(entries, side)
    rows = torch.tensor([row for rows in lists for row in rows])
    for row in range(4):
        torch.testing.assert_close(out[row], entries[rows == row].mean(0))
    assert torch.equal(out[4], torch.zeros(2, 3, dtype=torch.float64))
    values = torch.randn(5, 2, 3, dtype=torch.float64)
    assert torch.equal(load_entries(values, side), values[rows])
    # <fold s, v> = <s, spread v>: the gradient of reading is the sum over the occurrences.
    slots = torch.randn(side.num_slots, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(
        (fold_slots(slots, side, mean=False) * values).sum(),
        (slots * spread_rows(values, side)).sum(),
    )


def test_halves_are_folded_in_float32():
    side = AttentionIndex.from_rows([[0]] * 1000).queries
    slots = torch.full((1000, 1, 1), 3.0, dtype=torch.float16)
    # A running sum in half precision would stop growing at 2048 x eps.
    assert fold_slots(slots, side, mean=False).item() == 3000.0


def test_builders_remember_their_results():
    assert AttentionIndex.cross([5, 6], [7, 8]) is AttentionIndex.cross((5, 6), [7, 8])
    assert AttentionIndex.within([5]) is not AttentionIndex.within([6])


def test_remembered_index_can_be_saved_for_backward():
    with torch.inference_mode():
        index = AttentionIndex.within([11, 13, 17])
    assert not index.queries.start.is_inference()


def test_moves_to_a_device():
    index = AttentionIndex.from_rows([[0, 1], [0, 2]]).to("meta")
    tensors = [
        getattr(index.queries, name)
        for name in ("start", "length", "rows", "slots", "repeated", "counts")
    ]
    assert all(t.device.type == "meta" for t in tensors)
    assert index.device.type == "meta" and index.max_query == 2


@pytest.mark.gpu
def test_uniform_is_made_without_a_sync():
    torch.cuda.set_sync_debug_mode("error")
    try:
        AttentionIndex.uniform("joint", 7, 19, 23, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: AttentionIndex.within([3, 0]), ValueError,
         r"AttentionIndex.within: lengths\[1\] must be at least 1, got 0"),
        (lambda: AttentionIndex.within([]), ValueError,
         r"lengths must hold at least one sequence, got none"),
        (lambda: AttentionIndex.within([1.5]), TypeError, r"lengths\[0\] must be an integer"),
        (lambda: AttentionIndex.within(3), TypeError,
         r"lengths must be a sequence of integers, got 3"),
        (lambda: AttentionIndex.uniform("cross", 1.5, 1, 1), TypeError,
         r"batch must be an integer, got 1.5"),
        (lambda: AttentionIndex.from_rows(["a"]), TypeError,
         r"query_sequences\[0\] must hold integers, got 'a'"),
        (lambda: AttentionIndex.cross([3], [-2]), ValueError,
         r"infrared_lengths\[0\] must be at least 1, got -2"),
        (lambda: AttentionIndex.joint([3, 4], [5]), ValueError,
         r"infrared_lengths must hold 2 sequences, as visible_lengths does, got 1"),
        (lambda: AttentionIndex.pairs([3], [5, 5]), ValueError,
         r"key_lengths must hold 1 sequences, as query_lengths does, got 2"),
        (lambda: AttentionIndex.uniform("both", 1, 1, 1), ValueError, r"mode must be one of"),
        (lambda: AttentionIndex.uniform("cross", 2, 0, 1), ValueError,
         r"visible_length must be at least 1, got 0"),
        (lambda: AttentionIndex.from_rows([[0], []]), ValueError,
         r"query_sequences\[1\] must hold at least one row, shape \(L,\), got \(0,\). Leave empty"),
        (lambda: AttentionIndex.from_rows([]), ValueError,
         r"query_sequences must hold at least one sequence"),
        (lambda: AttentionIndex.from_rows([[0]], [[1], [2]]), ValueError,
         r"key_sequences must hold 1 sequences, as query_sequences does, got 2"),
        (lambda: AttentionIndex.from_rows([[0, 5]], num_queries=5), ValueError,
         r"query_sequences must hold rows in \[0, 5\), got 5"),
        (lambda: AttentionIndex.from_rows([[0]], [[-1]]), ValueError,
         r"key_sequences must hold rows in \[0, 1\), got -1"),
        (lambda: AttentionIndex.from_rows([[0.5]]), TypeError,
         r"query_sequences\[0\] must hold integers, got torch.float32"),
        (lambda: AttentionIndex.from_rows([[0]], num_queries=0), ValueError,
         r"num_queries must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_rejects_bad_sequences(build, error, match):
    with pytest.raises(error, match=match):
        build()
