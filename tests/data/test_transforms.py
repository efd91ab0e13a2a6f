import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vireid_fast.data import transforms, views
from vireid_fast.data.transforms import (
    ERASE_FILL,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LUMA,
    ChannelAdapGray,
    ChannelExchange,
    ChannelRandomErasing,
    IntensityJitter,
    Normalize,
    PadCropFlip,
    ZoomCropFlip,
    to_float,
)
from vireid_fast.data.views import (
    Augmentation,
    infrared_view,
    visible_exchange_view,
    visible_view,
)

VIEWS = [visible_view, visible_exchange_view, infrared_view]
STRONG = Augmentation(scale=(0.7, 1.2), jitter=0.3, gamma=0.4)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def random_bytes(count=6, height=13, width=9):
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded(9))


def random_floats(count=6, height=13, width=9):
    return torch.rand((count, 3, height, width), generator=seeded(9))


def test_to_float_moves_channels_first():
    images = random_bytes()
    floats = to_float(images)
    assert floats.is_contiguous()
    np.testing.assert_array_equal(
        floats.numpy(), images.numpy().transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    )


def test_normalize():
    images = random_floats()
    expected = images.numpy().copy()
    for channel in range(3):
        expected[:, channel] -= np.float32(IMAGENET_MEAN[channel])
        expected[:, channel] /= np.float32(IMAGENET_STD[channel])
    # One rounding step: the order of the operations is the same.
    np.testing.assert_allclose(Normalize()(images).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("pad", [0, 1, 4, 20])
@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_crop_and_flip_equal_a_loop(pad, flip):
    images = random_bytes(count=16)
    count, height, width, _ = images.shape
    generator = seeded(3)
    tops = torch.randint(2 * pad + 1, (count, 1), generator=generator)
    lefts = torch.randint(2 * pad + 1, (count, 1), generator=generator)
    flips = torch.rand((count, 1), generator=generator, dtype=torch.float64) < flip
    result = PadCropFlip(pad, flip)(images, seeded(3))
    for n in range(count):
        padded = np.pad(images[n].numpy(), ((pad, pad), (pad, pad), (0, 0)))
        top, left = int(tops[n]), int(lefts[n])
        crop = padded[top : top + height, left : left + width]
        expected = crop[:, ::-1] if flips[n] else crop
        np.testing.assert_array_equal(result[n].numpy(), expected)


def test_crop_reaches_every_place_equally_often():
    # A single white pixel in the centre shows where the crop was.
    images = torch.zeros((9000, 5, 5, 3), dtype=torch.uint8)
    images[:, 2, 2] = 255
    white = PadCropFlip(pad=1, flip=0.5)(images, seeded())[..., 0].nonzero()
    places = torch.bincount(white[:, 1] * 5 + white[:, 2], minlength=25).view(5, 5)
    assert places.sum() == 9000
    # 1000 expected at each of 9 places; 4.5 standard deviations.
    assert ((places[1:4, 1:4] - 1000).abs() < 4.5 * math.sqrt(1000)).all()


def bilinear(image, y, x):
    """Value of a (3, H, W) image at pixel coordinates, black outside."""
    _, height, width = image.shape
    total = np.zeros(3)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


@pytest.mark.parametrize("scale", [(0.5, 0.9), (1.0, 1.0), (1.2, 2.5)])
def test_zoom_equals_a_loop(scale):
    images = random_floats(count=5, height=7, width=5)
    pad, (low, high) = 2, scale
    draws = torch.rand((5, 4), generator=seeded(4), dtype=torch.float64).tolist()
    result = ZoomCropFlip(scale, pad, flip=0.5)(images, seeded(4)).numpy()
    for n, (u, v, w, f) in enumerate(draws):
        s = low + (high - low) * u
        top = v * (7 + 2 * pad - s * 7) - pad
        left = w * (5 + 2 * pad - s * 5) - pad
        for i in range(7):
            for j in range(5):
                column = 4 - j if f < 0.5 else j
                y, x = top + s * (i + 0.5) - 0.5, left + s * (column + 0.5) - 0.5
                expected = bilinear(images[n].numpy().astype(np.float64), y, x)
                # float32 coordinates: a few 1e-6 of a pixel.
                np.testing.assert_allclose(result[n, :, i, j], expected, atol=2e-5)


def test_zoom_of_one_without_pad_is_the_identity():
    images = random_floats()
    same = ZoomCropFlip((1.0, 1.0), pad=0, flip=0.0)(images, seeded())
    torch.testing.assert_close(same, images, rtol=0, atol=1e-5)
    mirrored = ZoomCropFlip((1.0, 1.0), pad=0, flip=1.0)(images, seeded())
    torch.testing.assert_close(mirrored, images.flip(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("strength", "gamma"), [(0.4, 0.0), (0.0, 0.5), (0.4, 0.5)])
def test_intensity_jitter_equals_a_loop(strength, gamma):
    images = random_floats()
    draws = torch.rand((6, 3), generator=seeded(5), dtype=torch.float64).numpy() * 2 - 1
    result = IntensityJitter(strength, gamma)(images, seeded(5)).numpy()
    for n, (g, c, b) in enumerate(draws):
        image = images[n].numpy().astype(np.float64) ** math.exp(gamma * g)
        image = (image - image.mean()) * (1 + strength * c) + image.mean()
        expected = np.clip(image * (1 + strength * b), 0, 1)
        np.testing.assert_allclose(result[n], expected, atol=2e-6)


def naive_rectangle(height, width, areas, aspects, place, erasing):
    """The released loop, on recorded draws."""
    for u, v in zip(areas, aspects, strict=True):
        target = (erasing.area[0] + (erasing.area[1] - erasing.area[0]) * u) * height * width
        aspect = erasing.aspect + (1 / erasing.aspect - erasing.aspect) * v
        h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if w < width and h < height:
            return [int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w]
    return [0, 0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    probability=st.sampled_from([0.0, 0.5, 1.0]),
    area=st.sampled_from([(0.02, 0.4), (0.3, 2.0), (5.0, 6.0)]),
)
def test_rectangles_equal_the_released_loop(height, width, probability, area):
    erasing, count = ChannelRandomErasing(probability, area), 12
    generator = seeded(6)
    chosen = torch.rand(count, generator=generator, dtype=torch.float64) < probability
    sizes = torch.rand((2, count, 100), generator=generator, dtype=torch.float64).tolist()
    places = torch.rand((2, count), generator=generator, dtype=torch.float64).tolist()
    result = erasing.rectangles(count, height, width, seeded(6)).tolist()
    for n in range(count):
        place = (places[0][n], places[1][n])
        expected = naive_rectangle(height, width, sizes[0][n], sizes[1][n], place, erasing)
        assert result[n] == (expected if chosen[n] else [0, 0, 0, 0])


def test_erasing_fills_exactly_the_rectangles():
    images = random_floats(count=40, height=20, width=11)
    erasing = ChannelRandomErasing()
    rectangles = erasing.rectangles(40, 20, 11, seeded(7)).tolist()
    expected = images.clone()
    for n, (top, left, height, width) in enumerate(rectangles):
        for channel in range(3):
            expected[n, channel, top : top + height, left : left + width] = ERASE_FILL[channel]
    assert torch.equal(erasing(images, seeded(7)), expected)
    assert 0 < sum(height > 0 for *_, height, _ in rectangles) < 40


def test_erasing_statistics():
    rectangles = ChannelRandomErasing().rectangles(8000, 288, 144, seeded(8)).double()
    erased = rectangles[rectangles[:, 2] > 0]
    # 4 standard deviations of a fair coin.
    assert abs(len(erased) / 8000 - 0.5) < 4 * 0.5 / math.sqrt(8000)
    share = erased[:, 2] * erased[:, 3] / (288 * 144)
    aspect = erased[:, 2] / erased[:, 3]
    # Rounding to whole pixels moves both a little beyond their ranges.
    assert 0.0195 < share.min() < 0.03
    assert 0.36 < share.max() < 0.405
    assert 0.29 < aspect.min() < 0.35
    assert 3.0 < aspect.max() < 3.45
    assert (erased[:, 0] + erased[:, 2]).max() == 288
    assert (erased[:, 1] + erased[:, 3]).max() == 144
    assert erased[:, :2].min() == 0


def identify(images, results):
    """For each image: 0, 1, 2 copied channel, 3 luma, 4 unchanged."""
    luma = sum(weight * images[:, c] for c, weight in enumerate(LUMA))
    choices = []
    for image, result, grey in zip(images, results, luma, strict=True):
        if torch.equal(image, result):
            choices.append(4)
            continue
        matches = [c for c in range(3) if torch.equal(result, image[c].expand(3, -1, -1))]
        if not matches:
            torch.testing.assert_close(result, grey.expand(3, -1, -1), rtol=1e-5, atol=1e-6)
        choices.append(matches[0] if matches else 3)
    return np.bincount(choices, minlength=5) / len(choices)


@pytest.mark.parametrize(
    ("operator", "shares"),
    [
        (ChannelExchange(), [1 / 3, 1 / 3, 1 / 3, 0, 0]),
        (ChannelExchange(grey=3), [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0]),
        (ChannelAdapGray(), [1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 8]),
        (ChannelAdapGray(probability=1.0), [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0]),
        (ChannelAdapGray(probability=0.0), [1 / 4, 1 / 4, 1 / 4, 0, 1 / 4]),
    ],
)
def test_channel_choices(operator, shares):
    images = random_floats(count=3000, height=2, width=3) - 0.5
    observed = identify(images, operator(images, seeded()))
    # 4.5 standard deviations of each share; exact where the share is 0.
    deviation = 4.5 * np.sqrt(np.array(shares) * (1 - np.array(shares)) / 3000)
    assert (np.abs(observed - shares) <= deviation).all()


def test_published_order_erases_before_exchanging():
    """As released, the erased rectangle's colour goes through the channel operator."""
    images, augmentation = random_bytes(count=64), Augmentation(erase=1.0)
    result = visible_exchange_view(images, augmentation, seeded())
    assert torch.equal(result[:, 0], result[:, 1])
    assert torch.equal(result[:, 0], result[:, 2])
    fills = torch.tensor(ERASE_FILL)
    held = (result[:, 0].flatten(1)[:, :, None] == fills).any(1)
    assert (held.any(1)).all()
    assert held.any(0).all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["csdn", "strong"])
def test_views_are_deterministic_and_write_no_input(view, augmentation):
    images = random_bytes()
    before = images.clone()
    first = view(images, augmentation, seeded(1))
    assert torch.equal(first, view(images, augmentation, seeded(1)))
    assert not torch.equal(first, view(images, augmentation, seeded(2)))
    assert torch.equal(images, before)
    assert first.shape == (6, 3, 13, 9)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()


@pytest.mark.parametrize(
    "operator",
    [
        Normalize(),
        ZoomCropFlip(),
        IntensityJitter(0.2, 0.2),
        ChannelRandomErasing(1.0),
        ChannelExchange(),
        ChannelAdapGray(),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_operators_write_no_input(operator):
    images = random_floats()
    before = images.clone()
    arguments = () if isinstance(operator, Normalize) else (seeded(),)
    assert not torch.equal(operator(images, *arguments), before)
    assert torch.equal(images, before)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["csdn", "strong"])
def test_images_of_a_batch_get_draws_of_their_own(view, augmentation):
    images = random_bytes(count=1).expand(16, -1, -1, -1)
    result = view(images, augmentation, seeded()).flatten(1)
    assert len(torch.unique(result, dim=0)) > 8


def test_visible_view_is_its_parts():
    images, generator = random_bytes(), seeded(1)
    expected = to_float(PadCropFlip(10, 0.5)(images, generator))
    expected = ChannelRandomErasing(0.5)(Normalize()(expected), generator)
    assert torch.equal(visible_view(images, Augmentation(), seeded(1)), expected)


def test_pure_augmentation_switched_off_is_the_test_view():
    images = random_bytes()
    nothing = Augmentation(pad=0, flip=0, erase=0)
    expected = views.test_view(images, nothing)
    assert torch.equal(visible_view(images, nothing, seeded()), expected)
    assert torch.equal(views.test_view(images, nothing, flip=True), expected.flip(-1))
    assert torch.equal(expected, Normalize()(to_float(images)))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["csdn", "strong"])
def test_empty_batch(view, augmentation):
    images = torch.empty((0, 13, 9, 3), dtype=torch.uint8)
    assert view(images, augmentation, seeded()).shape == (0, 3, 13, 9)


@pytest.mark.parametrize("view", VIEWS)
def test_non_contiguous_images(view):
    images = random_bytes(count=6, height=9, width=13).transpose(1, 2)[::2]
    expected = view(images.contiguous(), Augmentation(), seeded())
    assert torch.equal(view(images, Augmentation(), seeded()), expected)


@pytest.mark.parametrize("view", VIEWS)
def test_generator_may_live_on_another_device(view, device):
    images = random_bytes()
    expected = view(images, STRONG, seeded())
    result = view(images.to(device), STRONG, seeded())
    assert result.device.type == device.type
    # pow, exp and grid_sample differ by a few units in the last place between devices.
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["csdn", "strong"])
def test_views_reject_other_inputs(view, augmentation):
    with pytest.raises(TypeError, match=r"images must be uint8, got torch\.float32"):
        view(random_bytes().float(), augmentation, seeded())
    with pytest.raises(ValueError, match=r"images must have shape \(B, H, W, 3\), got \(6, 3, "):
        view(random_bytes().permute(0, 3, 1, 2), augmentation, seeded())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad": -1}, "pad must be at least 0, got -1"),
        ({"flip": 1.5}, r"flip must be a probability in 0\.\.1, got 1\.5"),
        ({"erase": -0.1}, r"erase must be a probability in 0\.\.1, got -0\.1"),
        (
            {"scale": (1.2, 0.8)},
            r"scale must be \(low, high\), 0 < low <= high, got \(1\.2, 0\.8\)",
        ),
        ({"scale": (0.0, 1.0)}, "scale must be"),
        ({"jitter": 1.0}, r"jitter must be in \[0, 1\), got 1\.0"),
        ({"gamma": math.nan}, "gamma must be at least 0 and finite, got nan"),
        ({"grey": 1}, "grey must be 2 or 3, got 1"),
        ({"std": (0.1, 0.0, 0.1)}, "std must be positive"),
    ],
)
def test_augmentation_rejects(change, message):
    with pytest.raises(ValueError, match=f"Augmentation: {message}"):
        Augmentation(**change)


def test_random_grey_and_invert_touch_some_images_whole():
    images = torch.rand(64, 3, 4, 2)
    grey = transforms.RandomGrey(0.5)(images, torch.Generator().manual_seed(0))
    luma = (images * torch.tensor(transforms.LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    changed = (grey != images).flatten(1).any(1)
    assert 15 < int(changed.sum()) < 49
    torch.testing.assert_close(grey[changed], luma.expand_as(grey)[changed])
    inverted = transforms.RandomInvert(0.5)(images, torch.Generator().manual_seed(0))
    changed = (inverted != images).flatten(1).any(1)
    assert 15 < int(changed.sum()) < 49
    torch.testing.assert_close(inverted[changed], 1 - images[changed])


def test_views_and_tests_share_the_normalisation():
    images = torch.randint(0, 256, (3, 8, 6, 3), dtype=torch.uint8)
    plain = Augmentation(pad=0, flip=0, erase=0)
    draws = torch.Generator().manual_seed(0)
    expected = views.test_view(images, plain)
    torch.testing.assert_close(visible_view(images, plain, draws), expected)
    torch.testing.assert_close(expected, Normalize()(to_float(images)))
