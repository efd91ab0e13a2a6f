"""Complete features: which slot holds the image and which the compensation."""

import math

import pytest
import torch

from vireid_fast.nn import ModalityCompensation

WIDTH = 3


def _random():
    compensation = ModalityCompensation(WIDTH).double()
    with torch.no_grad():
        for parameter in compensation.parameters():
            parameter.normal_()
    return compensation


def _slot(layer, x):
    length = math.sqrt(math.fsum(v * v for v in x))
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [math.fsum(w * v / length for w, v in zip(row, x, strict=True)) + b for row, b in rows]


@pytest.mark.parametrize("num_visible", [0, 2, 5])
def test_equals_the_loop(num_visible):
    compensation = _random()
    projected, missing = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    expected = []
    for row in range(5):
        own = _slot(compensation.original, projected[row].tolist())
        added = _slot(compensation.compensated, missing[row].tolist())
        gate = compensation.gate.tolist()
        other = [o + g * t for o, g, t in zip(own, gate, added, strict=True)]
        expected.append(own + other if row < num_visible else other + own)
    actual = compensation(projected, missing, num_visible)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_the_compensated_slot_is_that_of_the_missing_modality():
    compensation = ModalityCompensation(WIDTH)
    image, description = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 5.0]])
    visible = compensation(image, description, 1)
    infrared = compensation(image, description, 0)
    # Slots are (visible, infrared); both maps start as the identity and the gate at a tenth.
    tenth = torch.tensor(0.1).item()
    assert visible.tolist() == [[1, 0, 0, 1, 0, tenth]]
    assert infrared.tolist() == [[1, 0, tenth, 1, 0, 0]]


def test_the_two_modalities_have_the_same_slots_in_the_other_order():
    compensation = _random()
    image, description = torch.randn(2, 1, WIDTH, dtype=torch.float64)
    visible, infrared = compensation(image, description, 1), compensation(image, description, 0)
    assert torch.equal(visible, infrared.roll(WIDTH, dims=1))
    assert not torch.allclose(visible, infrared)


def test_a_closed_gate_leaves_the_image_in_both_slots():
    compensation = _random()
    with torch.no_grad():
        compensation.gate.zero_()
    image, description = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    own, other = compensation(image, description, 4).chunk(2, dim=1)
    assert torch.equal(own, other)


def test_gradcheck():
    compensation = _random()
    inputs = tuple(torch.randn(2, 3, WIDTH, dtype=torch.float64).requires_grad_().unbind())
    assert torch.autograd.gradcheck(lambda p, t: compensation(p, t, 1), inputs)


def test_refuses_what_does_not_fit():
    compensation, rows = ModalityCompensation(WIDTH), torch.randn(2, WIDTH)
    with pytest.raises(ValueError, match=r"projected must have shape \(B, 3\), got \(2, 2\)"):
        compensation(rows[:, :2], rows, 1)
    with pytest.raises(ValueError, match=r"missing_text must have shape \(2, 3\), got \(1, 3\)"):
        compensation(rows, rows[:1], 1)
    with pytest.raises(ValueError, match=r"num_visible must lie in 0..2, got 3"):
        compensation(rows, rows, 3)
