"""Image-to-all-text cross-entropy in blocks, against loops and the whole score matrix."""

import math

import pytest
import torch

from vireid_fast.losses import image_to_text
from vireid_fast.testing import assert_error_budget, make_features

# (images, texts, width, block): one text, one block, blocks that do not divide, one text a block.
CASES = [
    (1, 1, 1, 1024), (3, 5, 4, 1024), (4, 7, 5, 7), (5, 13, 6, 4), (6, 9, 3, 1),
    (64, 395, 64, 128),
]  # fmt: skip


def _inputs(images, texts, width, dtype=torch.float64, device="cpu"):
    features = make_features(images, width, dtype=dtype, device=device, seed=1)
    bank = make_features(texts, width, dtype=dtype, device=device, seed=2)
    labels = torch.arange(images, device=device) * 5 % texts
    labels[-1] = texts - 1
    return features, bank, labels


def _loop(features, bank, labels):
    total = 0.0
    for row, label in zip(features, labels, strict=True):
        scores = [math.fsum((row * text).tolist()) for text in bank]
        peak = max(scores)
        total += peak + math.log(math.fsum(math.exp(s - peak) for s in scores)) - scores[label]
    return total / len(features)


@pytest.mark.parametrize("case", CASES[:5], ids=str)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_equals_the_loop(case, backend):
    inputs = _inputs(*case[:3])
    loss = image_to_text(*inputs, block=case[3], backend=backend)
    assert loss.item() == pytest.approx(_loop(*inputs), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)], ids=str)
def test_gradients_equal_those_of_the_whole_matrix(case, wanted, device):
    features, bank, labels = _inputs(*case[:3], device=device)
    grads = []
    for backend in ("fused", "reference"):
        f, t = (x.clone().requires_grad_(w) for x, w in zip((features, bank), wanted, strict=True))
        (3 * image_to_text(f, t, labels, block=case[3], backend=backend)).backward()
        assert (f.grad is not None, t.grad is not None) == wanted
        grads.append([x.grad for x in (f, t) if x.grad is not None])
    for actual, expected in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_keeps_the_error_budget(case, device):
    features, bank, labels = _inputs(*case[:3], torch.float32, device)
    results = []
    for dtype, backend in (
        (torch.float32, "fused"), (torch.float32, "reference"), (torch.float64, "reference")
    ):  # fmt: skip
        leaves = [x.detach().to(dtype).requires_grad_() for x in (features, bank)]
        loss = image_to_text(*leaves, labels, block=case[3], backend=backend)
        loss.backward()
        results.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    # The loss is a difference of scores, and both gradients are differences of rows of the inputs,
    # so each carries the rounding of these, however small it is itself.
    scales = ((features.double() @ bank.double().T).abs().max(), bank.abs().max(),
              features.abs().max())  # fmt: skip
    for actual, reference, exact, scale in zip(*results, scales, strict=True):
        rounding = 4 * max(1.0, float(scale / exact.abs().max().clamp_min(1e-30)))
        if exact.abs().max() == 0:
            torch.testing.assert_close(actual, torch.zeros_like(actual), rtol=0, atol=1e-6)
        else:
            assert_error_budget(actual, reference, exact, rounding=rounding)


def test_gradcheck():
    features, bank, labels = _inputs(3, 5, 4)
    assert torch.autograd.gradcheck(
        lambda f, t: image_to_text(f, t, labels, block=2),
        (features.requires_grad_(), bank.requires_grad_()),
    )


def test_block_size_changes_rounding_only():
    features, bank, labels = _inputs(6, 50, 8, torch.float32)
    whole = image_to_text(features, bank, labels)
    for block in (1, 7, 49, 50, 51):
        torch.testing.assert_close(image_to_text(features, bank, labels, block=block), whole)


def test_large_scores_do_not_overflow():
    features, bank, labels = _inputs(4, 9, 3, torch.float32)
    loss = image_to_text(features * 1e4, bank * 1e4, labels, block=2)
    expected = image_to_text(features.double() * 1e4, bank.double() * 1e4, labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_infinite_scores_enter_as_in_a_plain_cross_entropy():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
    rows = {
        "a text at -inf": torch.tensor([[float("-inf"), 1.0]]),
        "a text at +inf": torch.tensor([[float("inf"), 1.0]]),
    }
    for row in rows.values():
        for label in range(4):
            labels = torch.tensor([label])
            expected = image_to_text(row, bank, labels, backend="reference")
            for block in (1, 2, 4):
                actual = image_to_text(row, bank, labels, block=block)
                torch.testing.assert_close(actual, expected, equal_nan=True)


def test_a_leading_block_at_minus_infinity_is_no_nan():
    # Every text of the first block scores -inf, the later ones do not.
    features = torch.ones(1, 1)
    bank = torch.tensor([[float("-inf")], [float("-inf")], [1.0], [2.0]])
    labels = torch.tensor([3])
    expected = math.log(1 + math.exp(-1))
    assert image_to_text(features, bank, labels, block=2).item() == pytest.approx(expected)


def test_nan_reaches_no_other_image():
    features, bank, labels = _inputs(4, 6, 3)
    features[2] = float("nan")
    features.requires_grad_()
    image_to_text(features, bank, labels, block=4).backward()
    assert features.grad[2].isnan().all() and features.grad[[0, 1, 3]].isfinite().all()


def test_nothing_is_kept_that_no_gradient_needs():
    features, bank, labels = _inputs(4, 6, 3)
    loss = image_to_text(features, bank.requires_grad_(), labels, block=5)
    saved = loss.grad_fn.saved_tensors
    assert sum(t is not None and t.shape == features.shape for t in saved) == 1
    assert not any(t is not None and t.shape == (4, 6) for t in saved)


def test_one_block_is_the_plain_cross_entropy():
    features, bank, labels = _inputs(4, 6, 3)
    loss = image_to_text(features.requires_grad_(), bank, labels)
    whole = image_to_text(features, bank, labels, backend="reference")
    # The same graph, so the same kernels and the same saved tensors.
    assert torch.equal(loss, whole) and loss.grad_fn.name() == whole.grad_fn.name()


def test_halves_autocast_and_strided_inputs():
    features, bank, labels = _inputs(4, 6, 8, torch.float32)
    expected = image_to_text(features, bank, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in ("fused", "reference"):
            actual = image_to_text(features, bank, labels, backend=backend)
            torch.testing.assert_close(actual, expected)
    strided = image_to_text(features.T.contiguous().T, bank.T.contiguous().T, labels)
    torch.testing.assert_close(strided, expected)
    one = features[:1].expand(4, -1)
    torch.testing.assert_close(
        image_to_text(one, bank, labels), image_to_text(one.contiguous(), bank, labels)
    )
    half = features.bfloat16().requires_grad_()
    loss = image_to_text(half, bank, labels)
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    assert image_to_text(features, bank.double(), labels).dtype == torch.float64


def test_compiles_without_a_break():
    def run(features, bank, labels):
        return image_to_text(features, bank, labels, block=4)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for images in (3, 5):
        features, bank, labels = _inputs(images, 10, 6)
        grads = []
        for function in (compiled, run):
            leaves = features.clone().requires_grad_(), bank.clone().requires_grad_()
            function(*leaves, labels).backward()
            grads.append([leaf.grad for leaf in leaves])
        torch.testing.assert_close(grads[0], grads[1])


def test_an_unknown_label_of_a_traced_graph_gives_nan():
    compiled = torch.compile(image_to_text, fullgraph=True, backend="aot_eager")
    features, bank, _ = _inputs(2, 3, 4)
    assert compiled(features, bank, torch.tensor([1, 3])).isnan()


@pytest.mark.gpu
def test_is_captured_by_a_cuda_graph():
    features, bank, labels = _inputs(8, 30, 16, torch.float32, "cuda")
    image_to_text(features, bank, labels, block=8)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = image_to_text(features, bank, labels, block=8)
    graph.replay()
    torch.testing.assert_close(loss, image_to_text(features, bank, labels, backend="reference"))


def test_refuses_what_does_not_fit():
    features, bank, labels = _inputs(3, 5, 4)
    for label, wrong in ((5, 5), (-1, -1), (-100, -100)):
        with pytest.raises(ValueError, match=rf"labels must be in \[0, 5\), got {wrong}\."):
            image_to_text(features, bank, torch.tensor([0, label, 1]))
    with pytest.raises(ValueError, match="text_bank must have 4 columns, got 3"):
        image_to_text(features, bank[:, :3], labels)
    with pytest.raises(ValueError, match="text_bank must hold a text, got none"):
        image_to_text(features, bank[:0], labels)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        image_to_text(features, bank, labels[:2])
    with pytest.raises(TypeError, match="labels must be int64"):
        image_to_text(features, bank, labels.int())
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        image_to_text(features, bank, labels, block=0)
    with pytest.raises(ValueError, match="backend must be one of"):
        image_to_text(features, bank, labels, backend="kernel")
