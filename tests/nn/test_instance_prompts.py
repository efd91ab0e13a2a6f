"""The instance prompt generator against loops over images, heads and tokens."""

import math

import pytest
import torch

from vireid_fast.nn import InstancePromptGenerator

WIDTH, IMAGE_WIDTH, TOKENS = 6, 5, 3


def _generator(**options):
    """Random everywhere, the output projections too, which start at zero."""
    options = {"base_tokens": TOKENS, "layers": 2, "heads": 2, "dropout": 0.0} | options
    generator = InstancePromptGenerator(WIDTH, IMAGE_WIDTH, **options).double()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(std=0.7)
    return generator


def _images(count=2, tokens=4):
    return torch.randn(count, tokens, IMAGE_WIDTH, dtype=torch.float64)


def _linear(x, weight, bias):
    rows = zip(weight.tolist(), bias.tolist(), strict=True)
    return [math.fsum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in rows]


def _norm(x, norm):
    mean = math.fsum(x) / len(x)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x) + norm.eps)
    scales = zip(x, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    return [(v - mean) / deviation * w + b for v, w, b in scales]


def _attend(layer, asking, read):
    """Outputs for the tokens `asking` of one image."""
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    sides = (asking, read, read)
    query, key, value = (
        [_linear(x, w, b) for x in side] for side, w, b in zip(sides, weights, biases, strict=True)
    )
    size = WIDTH // layer.heads
    out = []
    for q in query:
        mixed = []
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            scores = [
                math.fsum(a * b for a, b in zip(q[part], k[part], strict=True)) / math.sqrt(size)
                for k in key
            ]
            weight = [math.exp(s) for s in scores]
            total = math.fsum(weight)
            for channel in range(part.start, part.stop):
                mixed.append(
                    math.fsum(w * v[channel] for w, v in zip(weight, value, strict=True)) / total
                )
        out.append(_linear(mixed, layer.out_proj.weight, layer.out_proj.bias))
    return out


def _add(x, y):
    return [[a + b for a, b in zip(r, s, strict=True)] for r, s in zip(x, y, strict=True)]


def _mlp(layer, token):
    hidden = _linear(_norm(token, layer.norm_3), layer.widen.weight, layer.widen.bias)
    hidden = [h / (1 + math.exp(-1.702 * h)) for h in hidden]
    return _linear(hidden, layer.narrow.weight, layer.narrow.bias)


def _loop(generator, image):
    memory = [
        _norm(_linear(u, generator.memory.weight, generator.memory.bias), generator.memory_norm)
        for u in image.tolist()
    ]
    base = generator.base.tolist()
    tokens = base
    for layer in generator.layers:
        normal = [_norm(token, layer.norm_1) for token in tokens]
        tokens = _add(tokens, _attend(layer.self_attention, normal, normal))
        normal = [_norm(token, layer.norm_2) for token in tokens]
        tokens = _add(tokens, _attend(layer.cross_attention, normal, memory))
        tokens = _add(tokens, [_mlp(layer, token) for token in tokens])
    alpha = generator.alpha.tolist()
    return [
        [s + a * t for s, a, t in zip(row, alpha, token, strict=True)]
        for row, token in zip(base, tokens, strict=True)
    ]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_equals_the_loop(layers, backend):
    generator, images = _generator(layers=layers, backend=backend), _images()
    expected = torch.tensor([_loop(generator, image) for image in images], dtype=torch.float64)
    # Roundings of two layers.
    torch.testing.assert_close(generator(images), expected, rtol=1e-12, atol=1e-12)


def test_backends_are_one_function_with_one_state_dict():
    fused = _generator()
    plain = _generator(backend="reference")
    plain.load_state_dict(fused.state_dict())
    images = _images(3, 7)
    results = []
    for generator in (fused, plain):
        leaf = images.clone().requires_grad_()
        generator(leaf).square().sum().backward()
        results.append([leaf.grad, *(p.grad for p in generator.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    for actual, expected in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-12)


def test_starts_as_an_ordinary_prompt_for_every_image():
    generator = InstancePromptGenerator(WIDTH, IMAGE_WIDTH, heads=2).eval().double()
    tokens = generator(_images(2, 5))
    expected = (1.1 * generator.base).expand(2, -1, -1)
    # alpha is float32's 0.1.
    torch.testing.assert_close(tokens, expected, rtol=1e-7, atol=0)
    assert 0.01 < generator.base.std() < 0.04


def test_first_gradients_open_the_output_projections():
    generator = InstancePromptGenerator(WIDTH, IMAGE_WIDTH, heads=2)
    generator(_images().float()).square().sum().backward()
    for layer in generator.layers:
        for opened in (layer.self_attention.out_proj, layer.cross_attention.out_proj, layer.narrow):
            assert opened.weight.grad.abs().sum() > 0


def test_gradients_reach_every_parameter_and_the_image():
    generator, images = _generator(), _images().requires_grad_()
    tokens = generator(images)
    (tokens.square().sum() + generator.align(tokens).square().sum()).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert images.grad.abs().min() > 0


def test_gradcheck():
    generator = _generator(layers=1)
    assert torch.autograd.gradcheck(generator, (_images(2, 3).requires_grad_(),))


def test_images_do_not_see_each_other_and_their_tokens_have_no_order():
    generator, images = _generator(), _images(4, 6)
    together = generator(images)
    for row, image in zip(together, images, strict=True):
        torch.testing.assert_close(generator(image[None])[0], row, rtol=1e-12, atol=1e-12)
    shuffled = generator(images[:, torch.randperm(6)])
    torch.testing.assert_close(shuffled, together, rtol=1e-12, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_without_layers_the_base_tokens_stand_for_all_images():
    generator = _generator(layers=0)
    assert [name for name, _ in generator.named_parameters()] == ["base"]
    assert torch.equal(generator(_images(3)), generator.base[None])
    with pytest.raises(ValueError, match=r"align: layers must be at least 1, got 0\. Leave"):
        generator.align(generator(_images()))


def test_alignment_is_a_map_of_the_mean_token():
    generator = _generator()
    tokens = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    expected = [
        [math.fsum(w * m for w, m in zip(row, mean, strict=True)) for row in
         generator.alignment.weight.tolist()]
        for mean in [[math.fsum(c) / TOKENS for c in token.T.tolist()] for token in tokens]
    ]  # fmt: skip
    torch.testing.assert_close(
        generator.align(tokens), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


def test_dropout_acts_in_training_alone():
    generator, images = _generator(dropout=0.5), _images()
    assert not torch.equal(generator(images), generator(images))
    generator.eval()
    assert torch.equal(generator(images), generator(images))


def test_autocast_keeps_the_dtype_of_the_base_tokens():
    generator, images = _generator().float(), _images().float()
    expected = generator(images)
    with torch.autocast("cpu", torch.bfloat16):
        actual = generator(images)
    assert actual.dtype == torch.float32
    # bfloat16 has eight bits; tokens of size 3 pass a dozen products.
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.3)


def test_heads_are_one_per_64_channels():
    assert InstancePromptGenerator(512, 8).layers[0].cross_attention.heads == 8
    assert InstancePromptGenerator(32, 8).layers[0].cross_attention.heads == 1


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"image_tokens must have shape \(B, N, 5\), got \(2, 5\)"):
        _generator()(torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="heads must divide the width 6, got 4"):
        InstancePromptGenerator(WIDTH, IMAGE_WIDTH, heads=4)
    with pytest.raises(ValueError, match="layers must be 0 or more, got -1"):
        InstancePromptGenerator(WIDTH, IMAGE_WIDTH, layers=-1)
    with pytest.raises(ValueError, match="base_tokens must be at least 1, got 0"):
        InstancePromptGenerator(WIDTH, IMAGE_WIDTH, base_tokens=0)
    with pytest.raises(ValueError, match="backend must be one of"):
        InstancePromptGenerator(WIDTH, IMAGE_WIDTH, backend="fast")
