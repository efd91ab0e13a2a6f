import pytest
import torch

from vireid_fast.data.draws import Draws, uniform, uniform_int
from vireid_fast.data.transforms import (
    ChannelAdapGray,
    ChannelExchange,
    ChannelRandomErasing,
    IntensityJitter,
    PadCropFlip,
    RandomGrey,
    RandomInvert,
    ZoomCropFlip,
)
from vireid_fast.data.views import (
    Augmentation,
    infrared_view,
    visible_exchange_view,
    visible_view,
)

VIEWS = [visible_view, visible_exchange_view, infrared_view]
STRONG = Augmentation(
    scale=(0.7, 1.2), jitter=0.3, gamma=0.4, grey=3, grey_probability=0.5, invert=0.5
)
OPERATORS = [
    ZoomCropFlip(),
    IntensityJitter(0.2, 0.2),
    RandomGrey(),
    RandomInvert(),
    ChannelRandomErasing(0.7),
    ChannelExchange(3),
    ChannelAdapGray(),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def for_frames(generator, clips, frames):
    """Draws for all frames of some clips, clip after clip."""
    return Draws(generator, clips, torch.arange(clips).repeat_interleave(frames))


def random_bytes(count=6, height=13, width=9):
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded(9))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 1], [2, 2, 0, 4, 2, 2], []])
def test_each_image_gets_the_draws_of_its_row(rows):
    draws, alone = Draws(seeded(3), 5, torch.tensor(rows, dtype=torch.int64)), seeded(3)
    plain = torch.rand((5, 2), generator=alone, dtype=torch.float64).tolist()
    integers = torch.randint(7, (3, 5), generator=alone).tolist()
    first = uniform((len(rows), 2), draws, torch.device("cpu"))
    assert first.tolist() == [plain[row] for row in rows]
    second = uniform_int((3, len(rows)), 7, draws, torch.device("cpu"), images=1)
    assert second.tolist() == [[line[row] for row in rows] for line in integers]
    # Both sources have drawn the same amount.
    assert torch.equal(draws.generator.get_state(), alone.get_state())


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
def test_operators_augment_alike_with_a_generator_and_with_all_rows(operator):
    images = torch.rand((7, 3, 13, 9), generator=seeded(9))
    expected = operator(images, seeded(2))
    assert torch.equal(operator(images, Draws(seeded(2), 7)), expected)
    assert torch.equal(operator(images, Draws(seeded(2), 7, torch.arange(7))), expected)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["csdn", "strong"])
def test_parts_of_a_batch_are_augmented_as_the_whole(view, augmentation):
    """What two processes make of their halves, one after the other, is what one makes of all."""
    images = random_bytes(count=10)
    alone, parts = seeded(5), [torch.arange(4), torch.arange(4, 10)]
    sources = [Draws(seeded(5), 10, rows) for rows in parts]
    # The second call shows that all generators have drawn the same amount.
    for _ in range(2):
        expected = view(images, augmentation, alone)
        for rows, draws in zip(parts, sources, strict=True):
            assert torch.equal(view(images[rows], augmentation, draws), expected[rows])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["csdn", "strong"])
def test_frames_of_a_tracklet_share_their_draws(view, augmentation):
    frames = random_bytes(count=5).repeat_interleave(3, 0)
    result = view(frames, augmentation, for_frames(seeded(1), 5, 3)).unflatten(0, (5, 3))
    assert torch.equal(result, result[:, :1].expand_as(result))
    # Equal to one frame each; other tracklets have other draws.
    assert torch.equal(result[:, 0], view(frames[::3], augmentation, seeded(1)))


def test_other_frames_are_cut_at_the_same_place():
    frames = random_bytes(count=8)
    result = PadCropFlip(4)(frames, for_frames(seeded(1), 2, 4))
    marks = torch.arange(1, 13 * 9 + 1, dtype=torch.int32).view(1, 13, 9, 1).expand(8, -1, -1, 3)
    places = PadCropFlip(4)(marks, for_frames(seeded(1), 2, 4))[..., 0]
    for clip in range(2):
        assert (places[4 * clip : 4 * clip + 4] == places[4 * clip]).all()
    assert not torch.equal(places[0], places[4])
    for n in range(8):
        seen = places[n] > 0
        assert torch.equal(result[n][seen], frames[n].flatten(0, 1)[places[n][seen].long() - 1])


@pytest.mark.parametrize("view", VIEWS)
def test_frames_of_a_part_of_the_tracklets(view):
    """Both uses at once: a process takes tracklets 2 and 3 of four, with three frames each."""
    frames = random_bytes(count=12)
    expected = view(frames, STRONG, for_frames(seeded(4), 4, 3))
    own = Draws(seeded(4), 4, torch.tensor([2, 2, 2, 3, 3, 3]))
    assert torch.equal(view(frames[6:], STRONG, own), expected[6:])


def test_rectangles_are_those_of_the_rows():
    erasing, rows = ChannelRandomErasing(1.0), torch.tensor([4, 4, 1])
    expected = erasing.rectangles(6, 20, 11, seeded(7))[rows]
    assert torch.equal(erasing.rectangles(3, 20, 11, Draws(seeded(7), 6, rows)), expected)
    assert (expected[0, 2:] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"total": -1}, ValueError, "Draws: total must be at least 0, got -1"),
        ({"rows": torch.tensor([0, 3])}, ValueError, r"rows must lie in 0\.\.2, got 3"),
        ({"rows": torch.tensor([-1, 2])}, ValueError, r"rows must lie in 0\.\.2, got -1"),
        ({"rows": torch.tensor([[0]])}, ValueError, r"rows must have shape \(B,\), got \(1, 1\)"),
        ({"rows": torch.tensor([0.0])}, TypeError, "rows must be int64, got torch.float32"),
        ({"rows": [0, 1]}, TypeError, "rows must be a torch.Tensor, got list"),
    ],
)
def test_draws_reject(arguments, error, message):
    with pytest.raises(error, match=message):
        Draws(seeded(), **{"total": 3, **arguments})


@pytest.mark.parametrize("view", VIEWS)
def test_a_batch_of_another_size_is_refused(view):
    with pytest.raises(ValueError, match="images must be 4, one for each row, got 6"):
        view(random_bytes(), Augmentation(), Draws(seeded(), 4))
    with pytest.raises(ValueError, match="images must be 2, one for each row, got 6"):
        view(random_bytes(), STRONG, Draws(seeded(), 6, torch.tensor([0, 1])))
