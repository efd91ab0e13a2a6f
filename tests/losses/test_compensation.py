"""CLIP-MC's losses against naive loops in float64."""

import math

import pytest
import torch

from vireid_fast.losses import compensation_contrast, context_separation, token_alignment
from vireid_fast.testing import make_features

WIDTH = 5
VISIBLE_LABELS = torch.tensor([0, 0, 1, 2, 2])
INFRARED_LABELS = torch.tensor([2, 1, 0, 0])


def _rows(count, seed, dtype=torch.float64):
    return make_features(count, WIDTH, dtype=dtype, seed=seed)


def _inputs(dtype=torch.float64):
    """Visible p, infrared p, infrared texts of visible images, visible texts of infrared ones."""
    return [_rows(n, seed, dtype) for seed, n in enumerate((5, 4, 5, 4))]


def _cosine(a, b):
    dot = math.fsum((a * b).tolist())
    return dot / math.sqrt(math.fsum((a * a).tolist()) * math.fsum((b * b).tolist()))


def _loop(anchors, others, anchor_labels, other_labels, temperature):
    total = 0.0
    for anchor, label in zip(anchors, anchor_labels.tolist(), strict=True):
        scores = [_cosine(anchor, other) / temperature for other in others]
        log_sum = math.log(math.fsum(math.exp(s) for s in scores))
        positive = (other_labels == label).tolist()
        own = [s - log_sum for s, same in zip(scores, positive, strict=True) if same]
        total -= math.fsum(own) / len(own)
    return total / len(anchors)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_compensation_equals_the_loop(temperature):
    visible, infrared, to_infrared, to_visible = _inputs()
    loss = compensation_contrast(
        visible, infrared, to_infrared, to_visible, VISIBLE_LABELS, INFRARED_LABELS, temperature
    )
    expected = 0.5 * (
        _loop(to_infrared, infrared, VISIBLE_LABELS, INFRARED_LABELS, temperature)
        + _loop(to_visible, visible, INFRARED_LABELS, VISIBLE_LABELS, temperature)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_compensation_moves_descriptions_and_never_images():
    inputs = [x.requires_grad_() for x in _inputs()]
    compensation_contrast(*inputs, VISIBLE_LABELS, INFRARED_LABELS).backward()
    assert inputs[0].grad is None and inputs[1].grad is None
    assert inputs[2].grad.abs().min() > 0 and inputs[3].grad.abs().min() > 0


def test_compensation_of_swapped_modalities_is_the_same():
    visible, infrared, to_infrared, to_visible = _inputs()
    loss = compensation_contrast(
        visible, infrared, to_infrared, to_visible, VISIBLE_LABELS, INFRARED_LABELS
    )
    swapped = compensation_contrast(
        infrared, visible, to_visible, to_infrared, INFRARED_LABELS, VISIBLE_LABELS
    )
    assert torch.equal(loss, swapped)


def test_compensation_is_zero_where_every_description_is_its_only_image():
    axes = torch.eye(2, dtype=torch.float64)
    labels = torch.tensor([0, 1])
    loss = compensation_contrast(axes, 3 * axes, 2 * axes, axes, labels, labels, 0.01)
    # The other image scores 100 less.
    assert loss.item() == pytest.approx(0.0, abs=1e-40)


def test_alignment_equals_the_loop_and_moves_both():
    instance, projected = (x.requires_grad_() for x in (_rows(5, 1), _rows(5, 2)))
    loss = token_alignment(instance, projected, VISIBLE_LABELS, 0.2)
    expected = _loop(instance.detach(), projected.detach(), VISIBLE_LABELS, VISIBLE_LABELS, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert instance.grad.abs().min() > 0 and projected.grad.abs().min() > 0


def test_separation_is_the_cosine_of_the_means_above_the_margin():
    visible, infrared = 1 + _rows(3, 1), 1 + _rows(4, 2)
    means = [[math.fsum(c) / len(c) for c in x.T.tolist()] for x in (visible, infrared)]
    cosine = _cosine(*(torch.tensor(mean, dtype=torch.float64) for mean in means))
    assert cosine > 0.2
    loss = context_separation(visible, infrared, 0.2)
    assert loss.item() == pytest.approx(cosine - 0.2, rel=1e-12)
    assert context_separation(visible, infrared, cosine + 1e-9).item() == 0


def test_separation_has_no_gradient_below_the_margin():
    visible = torch.tensor([[1.0, 0.0]], requires_grad=True)
    context_separation(visible, torch.tensor([[0.0, 1.0]])).backward()
    assert torch.equal(visible.grad, torch.zeros(1, 2))
    visible.grad = None
    context_separation(visible, torch.tensor([[1.0, 1.0]])).backward()
    # Descending turns the visible text away from the infrared one.
    assert visible.grad[0, 1] > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_halves_are_computed_in_float32(autocast):
    exact = _inputs(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = [
            compensation_contrast(*exact, VISIBLE_LABELS, INFRARED_LABELS),
            token_alignment(exact[0], exact[2], VISIBLE_LABELS),
            context_separation(exact[0], exact[2], -1.0),
        ]
    double = [x.double() for x in exact]
    expected = [
        compensation_contrast(*double, VISIBLE_LABELS, INFRARED_LABELS),
        token_alignment(double[0], double[2], VISIBLE_LABELS),
        context_separation(double[0], double[2], -1.0),
    ]
    for actual, want in zip(losses, expected, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), want, rtol=1e-5, atol=1e-6)


def test_refuses_what_does_not_fit():
    visible, infrared, to_infrared, to_visible = _inputs()
    labels = VISIBLE_LABELS, INFRARED_LABELS
    with pytest.raises(ValueError, match=r"missing_infrared must have shape \(5, 5\), got"):
        compensation_contrast(visible, infrared, to_visible, to_infrared, *labels)
    with pytest.raises(ValueError, match=r"missing_visible must have shape \(4, 5\), got"):
        compensation_contrast(visible, infrared, to_infrared, to_infrared, *labels)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        compensation_contrast(visible, infrared, to_infrared, to_visible, *labels, 0)
    with pytest.raises(ValueError, match=r"compensation_contrast: labels must have shape \(5,\)"):
        compensation_contrast(visible, infrared, to_infrared, to_visible, *labels[::-1])
    with pytest.raises(ValueError, match=r"token_alignment: instance must have shape \(5, 5\)"):
        token_alignment(infrared, visible, VISIBLE_LABELS)
    with pytest.raises(ValueError, match=r"infrared_texts must have shape \(B, 5\), got \(5, 4\)"):
        context_separation(visible, visible[:, :4])
