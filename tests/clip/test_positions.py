import numpy as np
import pytest
import torch
from clip_oracles import resize_grid

from vireid_fast.clip import resize_positions


@pytest.mark.parametrize("target", [(18, 9), (16, 8), (3, 5), (7, 7), (1, 1), (14, 2)])
@pytest.mark.parametrize("source", [(7, 7), (4, 6)])
def test_resize_equals_loops(source, target):
    positions = torch.randn(1 + source[0] * source[1], 5, dtype=torch.float64)
    resized = resize_positions(positions, target, source)
    grid = positions[1:].numpy().reshape(*source, 5)
    expected = resize_grid(grid, *target).reshape(-1, 5)
    torch.testing.assert_close(resized[0], positions[0], rtol=0, atol=0)
    np.testing.assert_allclose(resized[1:].numpy(), expected, rtol=0, atol=1e-12)


def test_source_is_square_by_default():
    positions = torch.randn(50, 3)
    assert torch.equal(
        resize_positions(positions, (18, 9)), resize_positions(positions, (18, 9), (7, 7))
    )
    assert resize_positions(positions.half(), (5, 4)).dtype == torch.float16


def test_rejects_rows_that_are_no_square():
    with pytest.raises(ValueError, match=r"positions must have 1 \+ 7 \* 7 rows, got \(52, 3\)"):
        resize_positions(torch.zeros(52, 3), (4, 4))
