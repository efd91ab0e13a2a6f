"""The shared Gram matrix: distances, cosines and metric losses against float64 and naive forms."""

import pytest
import torch
import torch.nn.functional as F

from vireid_fast.losses import (
    FeatureGram,
    cross_modal_contrast,
    modality_shared_enhancement,
    weighted_regularized_triplet,
)
from vireid_fast.testing import limit_threads, make_features

ALL = slice(None)
# (identities, instances, width): rows are 3 x identities x instances, as in a CSDN step.
SIZES = [(1, 2, 1), (2, 2, 7), (3, 3, 33), (16, 4, 512)]


def _step(rows, labels, *, normalized=False, parity=False):
    """The metric losses of one CSDN step; `rows` is a tensor or a gram."""
    count = len(labels)
    visible, infrared = rows[:count], rows[2 * count :]
    return torch.stack(
        (
            weighted_regularized_triplet(rows, labels.repeat(3), parity=parity),
            modality_shared_enhancement(visible, infrared, labels, normalized=normalized),
            cross_modal_contrast(rows[: 2 * count], infrared, labels.repeat(2), labels),
        )
    )


def _batch(identities, instances, width, dtype=torch.float32, device="cpu"):
    labels = torch.arange(identities, device=device).repeat_interleave(instances)
    features = make_features(3 * len(labels), width, dtype=dtype, device=device, seed=3)
    # One common direction, as features after a ReLU have, and rows of different lengths.
    lengths = torch.linspace(0.5, 2, len(features), device=device, dtype=dtype)
    return (features + 0.7) * lengths[:, None], labels


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("parity", [False, True])
def test_losses_and_gradients_equal_the_separate_forms(size, normalized, parity, device):
    features, labels = _batch(*size, torch.float64, device)
    options = {"normalized": normalized, "parity": parity}
    one, two = (features.clone().requires_grad_() for _ in range(2))
    weights = torch.tensor([1.0, 0.3, 2.0], device=device, dtype=torch.float64)
    shared, separate = _step(FeatureGram(one), labels, **options), _step(two, labels, **options)
    torch.testing.assert_close(shared, separate, rtol=1e-12, atol=1e-12)
    (shared @ weights).backward()
    (separate @ weights).backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float32_errs_no_more_than_the_separate_forms(size, device):
    features, labels = _batch(*size, torch.float32, device)
    exact = features.double().requires_grad_()
    exact_losses = _step(exact, labels, normalized=True)
    exact_losses.sum().backward()
    errors = []
    for wrap in (lambda x: x, FeatureGram):
        leaf = features.clone().requires_grad_()
        losses = _step(wrap(leaf), labels, normalized=True)
        losses.sum().backward()
        assert losses.dtype == torch.float32
        errors.append(((losses - exact_losses).abs().max(), (leaf.grad - exact.grad).abs().max()))
    # Twice the separate forms' error; one rounding of the largest value is granted besides.
    for own, error, scale in zip(*errors, (exact_losses, exact.grad), strict=True):
        assert error <= 2 * own + 4 * torch.finfo(torch.float32).eps * scale.abs().max()


def test_gradcheck():
    features, labels = _batch(2, 2, 3, torch.float64)

    def losses(x):
        return _step(FeatureGram(x), labels, normalized=True)

    assert torch.autograd.gradcheck(losses, features.requires_grad_())


def test_near_rows_do_not_cancel():
    # Rows two roundings apart, far from the origin: |x|^2 + |y|^2 - 2 xy would be rounding only.
    base = make_features(1, 64, seed=1) + 100
    offset = torch.zeros(1, 64)
    offset[0, 5] = 2**-16
    features = torch.cat((base, base + offset))
    gram = FeatureGram(features)
    distance = gram.distances(ALL, ALL)
    assert distance[0, 1].item() == (features[0, 5] - features[1, 5]).abs().item() > 0
    exact = F.normalize(features.double())
    expected = (exact[0] - exact[1]).norm().item()
    assert gram.distances(ALL, ALL, normalized=True)[0, 1].item() == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("width", [1, 48, 2048])
def test_equal_and_parallel_rows_have_distance_zero_and_gradient_zero(width):
    row = make_features(1, width, seed=2)
    # The last row is parallel but for the rounding of its own values.
    features = torch.cat((row, row, row * 4, row * 0.1)).requires_grad_()
    gram = FeatureGram(features)
    plain, unit = gram.distances(ALL, ALL), gram.distances(ALL, ALL, normalized=True)
    assert plain[0, 1] == 0 and plain.diagonal().count_nonzero() == 0
    assert unit.count_nonzero() == 0
    (gradient,) = torch.autograd.grad(plain[0, 1] + unit.sum(), features)
    assert gradient.count_nonzero() == 0


def test_zero_rows_are_finite():
    features, labels = _batch(2, 2, 5)
    features[3] = 0
    features[7] = 0
    features.requires_grad_()
    gram = FeatureGram(features)
    assert gram.cosines(ALL, ALL)[3].abs().max() < 1e-15
    torch.testing.assert_close(
        gram.distances(ALL, ALL, normalized=True)[3, [0, 3, 7]], torch.tensor([1.0, 0.0, 0.0])
    )
    losses = _step(gram, labels, normalized=True)
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(features.grad).all()


def test_nan_stays_in_its_row_and_column():
    features = make_features(9, 6, seed=4)
    features[4, 2] = float("nan")
    gram = FeatureGram(features)
    others = torch.arange(9) != 4
    for values in (
        gram.distances(ALL, ALL), gram.distances(ALL, ALL, normalized=True), gram.cosines(ALL, ALL)
    ):  # fmt: skip
        assert values[4].isnan().all() and values[:, 4].isnan().all()
        assert values[others][:, others].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(dtype):
    features, labels = _batch(3, 2, 20, dtype)
    losses = _step(FeatureGram(features), labels)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, _step(FeatureGram(features.float()), labels))
    leaf = features.requires_grad_()
    _step(FeatureGram(leaf), labels).sum().backward()
    assert leaf.grad.dtype == dtype


def test_expanded_and_strided_features():
    features, labels = _batch(2, 3, 10)
    expected = _step(FeatureGram(features), labels)
    assert torch.equal(_step(FeatureGram(features.T.contiguous().T), labels), expected)
    same = features[:1].expand(len(features), -1)
    torch.testing.assert_close(_step(FeatureGram(same), labels), _step(same.contiguous(), labels))


def test_autocast_leaves_the_losses_in_float32():
    features, labels = _batch(3, 2, 40)
    for wrap in (lambda x: x, FeatureGram):
        expected = _step(wrap(features), labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(_step(wrap(features), labels), expected)


def test_threads_do_not_matter():
    features, labels = _batch(5, 3, 129)
    results = []
    for threads in (1, 2):
        with limit_threads(threads):
            leaf = features.clone().requires_grad_()
            gram = FeatureGram(leaf)
            values = gram.distances(ALL, ALL)
            _step(gram, labels).sum().backward()
            results.append((values, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-7)


def test_compiles_without_a_break():
    def run(features, labels):
        return _step(FeatureGram(features), labels, normalized=True).sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for size in ((2, 2, 8), (3, 2, 8)):
        features, labels = _batch(*size)
        one, two = (features.clone().requires_grad_() for _ in range(2))
        compiled(one, labels).backward()
        run(two, labels).backward()
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.gpu
def test_is_captured_by_a_cuda_graph():
    features, labels = _batch(4, 2, 64, device="cuda")
    static = features.clone().requires_grad_()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        _step(FeatureGram(static), labels).sum().backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    static.grad = None
    with torch.cuda.graph(graph):
        losses = _step(FeatureGram(static), labels)
        losses.sum().backward()
    static.data.copy_(features * 2)
    graph.replay()
    torch.testing.assert_close(losses, _step(FeatureGram(features * 2), labels))


def test_refuses_what_does_not_fit():
    features, labels = _batch(2, 2, 4)
    gram = FeatureGram(features)
    with pytest.raises(TypeError, match="FeatureGram: rows must be a slice, got int"):
        gram[3]
    with pytest.raises(ValueError, match=r"FeatureGram: features must have shape \(N, D\)"):
        FeatureGram(features[0])
    with pytest.raises(TypeError, match="FeatureGram: features must be float32 or"):
        FeatureGram(labels[:, None])
    with pytest.raises(TypeError, match="be tensors, or rows of one FeatureGram, got GramRows and"):
        modality_shared_enhancement(gram[:4], features[8:], labels)
    with pytest.raises(ValueError, match="be rows of one FeatureGram, got rows of two"):
        cross_modal_contrast(gram[:4], FeatureGram(features)[4:], labels, labels.repeat(2))
    with pytest.raises(ValueError, match=r"have a row per label \(4\), got \(4, 5\)"):
        modality_shared_enhancement(gram[:4], gram[7:], labels)
    with pytest.raises(ValueError, match="hold each identity at least twice, got 2 single rows"):
        modality_shared_enhancement(gram[:4], gram[8:], torch.tensor([0, 0, 1, 2]))


def test_a_look_without_gradient_leaves_later_losses_theirs():
    features = make_features(6, 5, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    gram = FeatureGram(features)
    with torch.no_grad():
        looked = weighted_regularized_triplet(gram, labels)
    loss = weighted_regularized_triplet(gram, labels)
    assert not looked.requires_grad and torch.equal(loss, looked)
    (grad,) = torch.autograd.grad(loss, features)
    (expected,) = torch.autograd.grad(weighted_regularized_triplet(features, labels), features)
    torch.testing.assert_close(grad, expected)
