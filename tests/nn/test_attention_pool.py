"""The attention pool against the stock call that computes every query."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vireid_fast.nn import AttentionPool2d
from vireid_fast.testing import assert_error_budget


def stock_pool(pool: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """All 1 + h w tokens ask; the first answer is kept, as in OpenAI's CLIP."""
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
    tokens = tokens + pool.positional_embedding[:, None].to(tokens.dtype)
    biases = [pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]
    return F.multi_head_attention_forward(
        tokens, tokens, tokens, tokens.shape[2], pool.num_heads, None, torch.cat(biases), None,
        None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias, training=pool.training,
        need_weights=False, use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
    )[0][0]  # fmt: skip


def make_pool(grid, width, heads, output=None, *, dtype=torch.float64, device="cpu", **options):
    pool = AttentionPool2d(grid, width, heads, output, **options)
    with torch.no_grad():
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
            nn.init.normal_(projection.bias)
    return pool.to(dtype=dtype, device=device)


CASES = [((1, 1), 8, 1, None), ((3, 2), 24, 3, 10), ((5, 7), 64, 4, 48), ((18, 9), 128, 2, 64)]


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize(("grid", "width", "heads", "output"), CASES)
def test_equals_stock_call_with_gradients(grid, width, heads, output, backend, device):
    pool = make_pool(grid, width, heads, output, device=device, backend=backend)
    stock = copy.deepcopy(pool)
    x = torch.randn(3, width, *grid, dtype=torch.float64, device=device, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    actual, expected = pool(x), stock_pool(stock, y)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    actual.backward(direction)
    expected.backward(direction)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-12)
    for (name, mine), theirs in zip(pool.named_parameters(), stock.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_state_dict_names_and_gradcheck():
    pool = make_pool((2, 1), 6, 3)
    assert set(pool.state_dict()) == {"positional_embedding"} | {
        f"{letter}_proj.{part}" for letter in "qkvc" for part in ("weight", "bias")
    }
    images = torch.randn(2, 6, 2, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(pool, images.requires_grad_())


def test_strides_do_not_matter():
    pool = make_pool((4, 3), 16, 2)
    x = torch.randn(2, 16, 4, 3, dtype=torch.float64)
    views = [
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.randn(2, 16, 8, 6, dtype=torch.float64)[:, :, ::2, ::2].copy_(x),
    ]
    for view in views:
        assert not view.is_contiguous()
        torch.testing.assert_close(pool(view), pool(x), rtol=1e-12, atol=1e-12)
    one = x[:1].expand(4, -1, -1, -1)
    torch.testing.assert_close(pool(one), pool(one.contiguous()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_stays_within_that_of_the_stock_call(dtype, device):
    pool = make_pool((18, 9), 256, 4, 64, dtype=dtype, device=device)
    x = torch.randn(4, 256, 18, 9, device=device).to(dtype)
    exact = stock_pool(copy.deepcopy(pool).double(), x.double())
    assert_error_budget(pool(x), stock_pool(pool, x), exact)


def test_autocast_returns_what_the_stock_call_returns():
    pool = make_pool((6, 3), 64, 4, dtype=torch.float32)
    x = torch.randn(4, 64, 6, 3)
    exact = stock_pool(copy.deepcopy(pool).double(), x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, stock = pool(x), stock_pool(pool, x)
    assert_error_budget(actual, stock, exact)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_compiles_in_one_graph(backend):
    pool = make_pool((3, 2), 16, 2, backend=backend)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 5):
        x = torch.randn(batch, 16, 3, 2, dtype=torch.float64, requires_grad=True)
        actual = compiled(x)
        torch.testing.assert_close(actual, pool(x), rtol=1e-12, atol=1e-12)
        (mine,) = torch.autograd.grad(actual.sum(), x)
        (theirs,) = torch.autograd.grad(pool(x).sum(), x)
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_nan_stays_within_its_image():
    pool = make_pool((2, 2), 8, 2)
    x = torch.randn(3, 8, 2, 2, dtype=torch.float64)
    clean = pool(x)
    x[1, 0, 0, 0] = torch.nan
    out = pool(x)
    assert out[1].isnan().all()
    torch.testing.assert_close(out[[0, 2]], clean[[0, 2]], rtol=1e-12, atol=1e-12)


# Fewer tokens than the 10 outputs, and more, where "fused" joins the two maps first.
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_projected_tokens_are_value_and_output_projection_of_every_token(batch, backend):
    pool = make_pool((3, 2), 24, 3, 10, backend=backend)
    x = torch.randn(batch, 24, 3, 2, dtype=torch.float64, requires_grad=True)
    actual = pool.project_tokens(x)
    for item, rows in zip(x, actual, strict=True):
        places = [item.mean(dim=(1, 2)), *(item[:, i, j] for i in range(3) for j in range(2))]
        for token, position, row in zip(places, pool.positional_embedding, rows, strict=True):
            value = pool.v_proj.weight @ (token + position) + pool.v_proj.bias
            expected = pool.c_proj.weight @ value + pool.c_proj.bias
            torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-12)
    plain = copy.deepcopy(pool)
    plain.backend = "reference"
    y = x.detach().clone().requires_grad_()
    direction = torch.randn_like(actual)
    actual.backward(direction)
    plain.project_tokens(y).backward(direction)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(pool.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-11, atol=1e-11)


def test_with_one_head_the_pooled_feature_is_a_weighted_mean_of_projected_tokens():
    pool = make_pool((3, 2), 8, 1, 5)
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    places = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([places.mean(1, keepdim=True), places], 1) + pool.positional_embedding
    scores = torch.einsum("bw,blw->bl", pool.q_proj(tokens[:, 0]), pool.k_proj(tokens)) / 8**0.5
    mean = torch.einsum("bl,bld->bd", scores.softmax(1), pool.project_tokens(x))
    torch.testing.assert_close(mean, pool(x), rtol=1e-12, atol=1e-12)


def test_square_side_and_empty_batch():
    pool = AttentionPool2d(3, 8, 2, output_dim=4)
    assert pool.positional_embedding.shape == (10, 8)
    assert pool(torch.zeros(0, 8, 3, 3)).shape == (0, 4)
    assert pool.project_tokens(torch.zeros(0, 8, 3, 3)).shape == (0, 10, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 8, 3), ValueError, r"num_heads must divide embed_dim 8, got 3"),
        ((0, 8, 2), ValueError, r"spacial_dim must be at least 1, got 0"),
        ((3, 8, 2, -1), ValueError, r"output_dim must be at least 1, got -1"),
        (((2, 1.5), 8, 2), TypeError, r"spacial_dim must be an integer, got 1.5"),
    ],
)
def test_rejects_sizes_that_do_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        AttentionPool2d(*arguments)


def test_rejects_maps_that_do_not_fit():
    pool = AttentionPool2d((3, 2), 8, 2)
    with pytest.raises(ValueError, match=r"x must have h w = 6 places, got \(1, 8, 3, 3\)"):
        pool(torch.zeros(1, 8, 3, 3))
    with pytest.raises(ValueError, match=r"x must have h w = 6 places, got \(1, 8, 3, 3\)"):
        pool.project_tokens(torch.zeros(1, 8, 3, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 8, h, w\), got"):
        pool(torch.zeros(1, 9, 3, 2))
    with pytest.raises(TypeError, match=r"x must be float32, got torch.float64"):
        pool(torch.zeros(1, 8, 3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="device"):
        pool(torch.zeros(1, 8, 3, 2, device="meta"))
    with pytest.raises(ValueError, match=r"backend must be one of"):
        AttentionPool2d((3, 2), 8, 2, backend="fast")


@pytest.mark.gpu
def test_runs_in_a_captured_graph():
    pool = make_pool((3, 2), 16, 2, dtype=torch.float32, device="cuda").requires_grad_(False)
    x = torch.randn(2, 16, 3, 2, device="cuda")
    expected = pool(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = pool(x)
    graph.replay()
    torch.testing.assert_close(out, expected)
