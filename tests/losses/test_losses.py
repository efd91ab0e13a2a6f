"""Losses against naive loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from vireid_fast.losses import (
    cross_modal_contrast,
    image_to_text,
    modality_shared_enhancement,
    supervised_contrast,
    weighted_regularized_triplet,
)


def _naive_contrast(a, b, ya, yb, t):
    total = 0.0
    for i in range(len(a)):
        scores = [float(a[i] @ b[k]) / t for k in range(len(b))]
        peak = max(scores)
        log_sum = peak + math.log(sum(math.exp(s - peak) for s in scores))
        positives = [s - log_sum for k, s in enumerate(scores) if yb[k] == ya[i]]
        total += sum(positives) / len(positives)
    return -total / len(a)


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_supervised_contrast_equals_the_loop(temperature):
    a, b = torch.randn(6, 5).double(), torch.randn(7, 5).double()
    ya, yb = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    expected = _naive_contrast(a, b, ya, yb, temperature)
    actual = supervised_contrast(a, b, ya, yb, temperature).item()
    assert actual == pytest.approx(expected, rel=1e-5)


def test_cross_modal_contrast_is_symmetric_and_scale_free():
    v, r = torch.randn(4, 8), torch.randn(6, 8)
    yv, yr = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 0, 0, 1])
    loss = cross_modal_contrast(v, r, yv, yr)
    torch.testing.assert_close(loss, cross_modal_contrast(r * 3, v * 0.5, yr, yv))
    n = F.normalize
    forward = _naive_contrast(n(v), n(r), yv, yr, 0.07)
    expected = (forward + _naive_contrast(n(r), n(v), yr, yv, 0.07)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_image_to_text_is_cross_entropy_over_all_texts():
    p, bank, y = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([4, 0, 2])
    scores = p.double() @ bank.double().T
    expected = -(scores.log_softmax(1)[torch.arange(3), y]).mean()
    assert image_to_text(p, bank, y).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="text_bank must have 4 columns, got 3"):
        image_to_text(p, bank[:, :3], y)


def _naive_wrt(x, y):
    total = 0.0
    for i in range(len(x)):
        d = [max(float((x[i] - x[j]).norm()), 0.0) for j in range(len(x))]
        pos = [j for j in range(len(x)) if y[j] == y[i]]
        neg = [j for j in range(len(x)) if y[j] != y[i]]
        wp = [math.exp(d[j] - max(d[k] for k in pos)) for j in pos]
        far = sum(w * d[j] for w, j in zip(wp, pos, strict=True)) / sum(wp)
        wn = [math.exp(min(d[k] for k in neg) - d[j]) for j in neg]
        near = sum(w * d[j] for w, j in zip(wn, neg, strict=True)) / sum(wn)
        total += math.log1p(math.exp(far - near))
    return total / len(x)


def test_wrt_equals_the_loop():
    x, y = torch.randn(9, 6).double(), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    loss = weighted_regularized_triplet(x, y).item()
    assert loss == pytest.approx(_naive_wrt(x, y), rel=1e-5)


def _one_anchor(nearest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One anchor, and three rows of another identity at `nearest` or little more."""
    x = torch.tensor([[0.0, 0.0], [nearest, 0.0], [nearest, 2.0], [nearest, -2.0]])
    return x, torch.tensor([0, 1, 1, 1])


@pytest.mark.parametrize("nearest", [2.0, 6.0, 9.0])
def test_wrt_parity_agrees_with_the_formula_while_negatives_are_near(nearest):
    x, y = _one_anchor(nearest)
    published = weighted_regularized_triplet(x, y, parity=True)
    torch.testing.assert_close(
        published, weighted_regularized_triplet(x, y), rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize(("distance", "weighted"), [(15.0, 3.51), (20.0, 0.041), (30.0, 0.0)])
def test_wrt_parity_reproduces_the_vanishing_weights(distance, weighted):
    # One negative at d: coded weight e^-d / (e^-d + 1e-6), so the weighted distance is d times it.
    expected = distance * math.exp(-distance) / (math.exp(-distance) + 1e-6)
    assert expected == pytest.approx(weighted, abs=5e-3)
    x, y = torch.tensor([[0.0], [distance]]), torch.tensor([0, 1])
    published = weighted_regularized_triplet(x, y, parity=True).item()
    assert published == pytest.approx(math.log1p(math.exp(-expected)), rel=1e-3)
    exact = weighted_regularized_triplet(x, y).item()
    assert exact == pytest.approx(math.log1p(math.exp(-distance)), rel=1e-3)


def test_wrt_of_one_identity_and_of_repeated_rows_is_finite():
    x = torch.zeros(4, 3, requires_grad=True)
    loss = weighted_regularized_triplet(x, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_msel_on_hand_made_points():
    # Identity 0: visible at 0 and 2 (intra 2), infrared at 0 and 0 (intra 0); cross 0, 2 / 1, 1.
    visible = torch.tensor([[0.0], [2.0], [5.0], [5.0]])
    infrared = torch.tensor([[0.0], [0.0], [5.0], [5.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # Visible rows: (0 - 2)^2, (2 - 2)^2, 0, 0 -> 1; infrared rows: (1 - 0)^2 twice, 0, 0 -> 0.5.
    assert modality_shared_enhancement(visible, infrared, labels).item() == pytest.approx(0.75)


def test_msel_equals_the_loop_and_has_gradients():
    v, r = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    total = 0.0
    for own, other in ((v, r), (r, v)):
        rows = []
        for i in range(6):
            mine = [j for j in range(6) if y[j] == y[i]]
            intra = sum((own[i] - own[j]).norm().item() for j in mine if j != i) / 2
            cross = sum((own[i] - other[j]).norm().item() for j in mine) / 3
            rows.append((cross - intra) ** 2)
        total += sum(rows) / 6
    loss = modality_shared_enhancement(v, r, y)
    assert loss.item() == pytest.approx(total / 2, rel=1e-4)
    loss.backward()
    assert torch.isfinite(v.grad).all() and v.grad.abs().sum() > 0


def test_msel_refuses_single_rows_and_other_shapes():
    with pytest.raises(ValueError, match="hold each identity at least twice, got 1 single rows"):
        modality_shared_enhancement(torch.ones(3, 2), torch.ones(3, 2), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="infrared must have the shape of visible"):
        modality_shared_enhancement(torch.ones(3, 2), torch.ones(2, 2), torch.tensor([0, 0, 1]))
