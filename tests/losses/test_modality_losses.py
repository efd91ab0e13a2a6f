"""The modality-level losses against naive loops in float64."""

import math

import pytest
import torch

from vireid_fast.losses import (
    FeatureGram,
    hetero_center_triplet,
    maximum_mean_discrepancy,
    multi_modality_alignment,
)

LABELS = torch.tensor([0, 0, 2, 2, 5, 5, 5])
OTHER_LABELS = torch.tensor([2, 5, 0, 0, 2])


def _features(dtype=torch.float64, width=6):
    visible = torch.randn(len(LABELS), width, dtype=torch.float64) + 0.5
    infrared = 2 * torch.randn(len(OTHER_LABELS), width, dtype=torch.float64) - 0.2
    return visible.to(dtype), infrared.to(dtype)


def _distance(a, b):
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def _cosine(a, b):
    return float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5


def _naive_mmd(visible, infrared, variance):
    def kernel(first, second):
        total = 0.0
        for a in first:
            for b in second:
                squared = _distance(a, b) ** 2
                for q in (0.25, 0.5, 1, 2, 4):
                    total += math.exp(-squared / (2 * q * variance)) / 5
        return total / (len(first) * len(second))

    return kernel(visible, visible) + kernel(infrared, infrared) - 2 * kernel(visible, infrared)


def _variance(visible, infrared):
    rows = [*visible, *infrared]
    squares = [_distance(a, b) ** 2 for i, a in enumerate(rows) for b in rows[:i]]
    return sum(squares) / len(squares)


def _naive_mma(visible, infrared, visible_labels, infrared_labels):
    means = []
    for rows, labels, others, other_labels in (
        (visible, visible_labels, infrared, infrared_labels),
        (infrared, infrared_labels, visible, visible_labels),
    ):
        terms = []
        for row, label in zip(rows, labels, strict=True):
            near, far = [], []
            for other, other_label in zip(others, other_labels, strict=True):
                distance = (1 - _cosine(row, other)) / 2
                (near if other_label == label else far).append(distance)
            if near and far:
                gap = sum(near) / len(near) - sum(far) / len(far)
                terms.append(math.log1p(math.exp(gap)))
        if terms:
            means.append(sum(terms) / len(terms))
    return sum(means) / len(means) if means else 0.0


def _naive_hetero(visible, infrared, visible_labels, infrared_labels, margin):
    centers = {}
    for name, rows, labels in (
        ("V", visible, visible_labels), ("R", infrared, infrared_labels),
    ):  # fmt: skip
        for label in set(labels.tolist()):
            centers[name, label] = rows[labels == label].mean(0)
    total = 0.0
    for name, other in (("V", "R"), ("R", "V")):
        for label in set(visible_labels.tolist()):
            anchor = centers[name, label]
            far = [_distance(anchor, c) for (_, z), c in centers.items() if z != label]
            total += max(0.0, margin + _distance(anchor, centers[other, label]) - min(far))
    return total


def test_mmd_equals_the_loops():
    visible, infrared = _features()
    expected = _naive_mmd(visible, infrared, _variance(visible, infrared))
    assert maximum_mean_discrepancy(visible, infrared).item() == pytest.approx(expected, rel=1e-12)


def test_mmd_takes_the_bandwidth_as_a_constant():
    visible, infrared = _features()
    variance, step = _variance(visible, infrared), 1e-6
    visible.requires_grad_()
    maximum_mean_discrepancy(visible, infrared).backward()
    for i, j in ((0, 0), (3, 5)):
        moved = [visible.detach().clone() for _ in range(2)]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        above, below = (_naive_mmd(rows, infrared, variance) for rows in moved)
        # Central differences err by step^2 and by rounding / step, about 1e-10 here.
        assert visible.grad[i, j].item() == pytest.approx((above - below) / (2 * step), abs=1e-9)


def test_mmd_of_equal_sets_is_zero_and_grows_with_their_distance():
    rows, _ = _features()
    assert maximum_mean_discrepancy(rows, rows).item() == pytest.approx(0, abs=1e-15)
    assert maximum_mean_discrepancy(rows, rows.flip(0)).item() == pytest.approx(0, abs=1e-15)
    near, far = (maximum_mean_discrepancy(rows, rows + by).item() for by in (0.1, 1.0))
    assert 0 < near < far
    # Scale-free, since the bandwidth is the features' own.
    scaled = maximum_mean_discrepancy(7 * rows, 7 * (rows + 1))
    assert scaled.item() == pytest.approx(far, rel=1e-12)


def test_mmd_of_one_point_is_zero_with_a_zero_gradient():
    point = torch.ones(3, 4, requires_grad=True)
    loss = maximum_mean_discrepancy(point, point.detach())
    loss.backward()
    assert loss.item() == 0 and point.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="visible and infrared must hold a row each, got 3 and 0"):
        maximum_mean_discrepancy(point, point[:0])


def test_mma_equals_the_loops():
    visible, infrared = _features()
    expected = _naive_mma(visible, infrared, LABELS, OTHER_LABELS)
    loss = multi_modality_alignment(visible, infrared, LABELS, OTHER_LABELS)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "other_labels"),
    [
        ([0, 0, 1, 1, 7, 2, 2], [0, 1, 1, 3, 0]),  # 7 and 2 without positives, and 3
        ([4] * 7, [4, 4, 4, 4, 9]),  # infrared rows without negatives or without positives
        ([0] * 7, [0] * 5),  # no row has negatives
        ([0] * 7, [1] * 5),  # no row has positives
    ],
    ids=["some", "one direction", "one identity", "strangers"],
)
def test_mma_leaves_out_rows_without_positives_or_negatives(labels, other_labels):
    visible, infrared = _features()
    labels, other_labels = torch.tensor(labels), torch.tensor(other_labels)
    visible.requires_grad_()
    loss = multi_modality_alignment(visible, infrared, labels, other_labels)
    expected = _naive_mma(visible.detach(), infrared, labels, other_labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert torch.isfinite(visible.grad).all()


@pytest.mark.parametrize("margin", [0.3, 5.0])
def test_hetero_center_equals_the_loops(margin):
    visible, infrared = _features()
    expected = _naive_hetero(visible, infrared, LABELS, OTHER_LABELS, margin)
    loss = hetero_center_triplet(visible, infrared, LABELS, OTHER_LABELS, margin)
    assert expected > 0
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_hetero_center_on_hand_made_centres():
    # Centres: identity 0 at 0 (V) and 3 (R); identity 1 at 10 (V) and 4 (R).
    visible = torch.tensor([[-1.0], [1.0], [10.0]])
    infrared = torch.tensor([[3.0], [4.0], [4.0]])
    loss = hetero_center_triplet(
        visible, infrared, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), margin=1.0
    )
    # V0: 1 + 3 - 4 = 0; V1: 1 + 6 - 7 = 0; R0: 1 + 3 - 1 = 3; R1: 1 + 6 - 1 = 6.
    assert loss.item() == pytest.approx(9.0)


def test_hetero_center_of_one_identity_is_zero_and_partners_are_required():
    visible = torch.randn(2, 3, requires_grad=True)
    same = torch.zeros(2, dtype=torch.int64)
    loss = hetero_center_triplet(visible, torch.randn(2, 3), same, same)
    loss.backward()
    assert loss.item() == 0 and visible.grad.abs().sum() == 0
    with pytest.raises(ValueError, match=r"must hold the same identities, got \[1\] in one"):
        hetero_center_triplet(visible, torch.randn(2, 3), same, torch.tensor([0, 1]))


@pytest.mark.parametrize("loss", [maximum_mean_discrepancy, multi_modality_alignment])
def test_rows_of_a_gram_give_the_same_loss_and_gradient(loss):
    labels = () if loss is maximum_mean_discrepancy else (LABELS, OTHER_LABELS)
    rows = torch.cat(_features())
    plain, shared = (rows.clone().requires_grad_() for _ in range(2))
    first = len(LABELS)
    separate = loss(plain[:first], plain[first:], *labels)
    gram = FeatureGram(shared)
    together = loss(gram[:first], gram[first:], *labels)
    separate.backward()
    together.backward()
    torch.testing.assert_close(together, separate, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(shared.grad, plain.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "loss", [maximum_mean_discrepancy, multi_modality_alignment, hetero_center_triplet]
)
def test_gradients_and_working_precision(loss):
    labels = () if loss is maximum_mean_discrepancy else (LABELS, OTHER_LABELS)
    visible, infrared = _features(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        halves = loss(visible, infrared, *labels)
    wide = loss(visible.float(), infrared.float(), *labels)
    assert halves.dtype == torch.float32 == wide.dtype
    # bfloat16 rows are taken as they are and computed on in float32: the same numbers.
    torch.testing.assert_close(halves, wide, rtol=1e-5, atol=1e-6)
    if loss is not maximum_mean_discrepancy:  # whose detached bandwidth gradcheck would not see
        visible, infrared = (x.requires_grad_() for x in _features())
        assert torch.autograd.gradcheck(lambda *x: loss(*x, *labels), (visible, infrared))
