import pickle
import warnings

import numpy as np
import pytest
from PIL import Image

from vireid_fast.data.images import ImageError, load_image, load_images

RAMP = np.arange(12 * 8, dtype=np.uint8).reshape(12, 8) * 2


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def grey3(plane):
    return np.repeat(plane[:, :, None], 3, axis=2)


def test_rgb_is_read_exactly(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = load_image(save(tmp_path / "a.png", rgb))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, rgb)


def test_grey_is_copied_to_three_channels(tmp_path):
    np.testing.assert_array_equal(load_image(save(tmp_path / "a.png", RAMP)), grey3(RAMP))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(tmp_path, mode):
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(17)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), grey3(RAMP))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(200))])
def test_palette_is_resolved(tmp_path, transparency):
    image = Image.fromarray(RAMP).convert("P")
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), grey3(RAMP))


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.indices((6, 10)).sum(0) % 2 == 1
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.png"), grey3(bits.astype(np.uint8) * 255)
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 256], [257, 32768, 65407, 65535]], dtype=np.uint16)
    image = load_image(save(tmp_path / f"a.{suffix}", values))
    np.testing.assert_array_equal(image[:, :, 0], [[0, 0, 1, 1], [1, 128, 255, 255]])
    np.testing.assert_array_equal(image, grey3(image[:, :, 0]))


def test_32_bit_within_16_bits_is_scaled(tmp_path):
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    image = load_image(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(image[:, :, 0], [[0, 1, 255]])


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_range_is_recognised(tmp_path, top):
    values = (np.array([[0.0, 0.2, 1.0]]) * top).astype(np.float32)
    image = load_image(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(image[:, :, 0], [[0, 51, 255]])


def test_cmyk_jpeg_keeps_its_colour(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 220
    image = load_image(save(tmp_path / "a.jpg", red, "CMYK", quality=95))
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image.mean((0, 1)), [220, 0, 0], atol=6)


def test_resize_is_pillows_lanczos(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", noise)
    expected = np.asarray(Image.fromarray(noise).resize((9, 16), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(load_image(path, (16, 9)), expected)


def test_deep_image_is_scaled_before_resizing(tmp_path):
    path = save(tmp_path / "a.png", np.full((8, 8), 65535, np.uint16))
    assert (load_image(path, (4, 6)) == 255).all()


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, -1), (4.0, 4)])
def test_rejects_size(tmp_path, size):
    with pytest.raises(ValueError, match=r"load_image: size must be \(height, width\), both at"):
        load_image(tmp_path / "a.png", size)


def write_bad_files(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "bmp", "tif", "webp"):
        content = save(folder / f"whole.{suffix}", noise).read_bytes()
        (folder / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        (folder / f"head.{suffix}").write_bytes(content[:20])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image at all")
    (folder / "folder.jpg").mkdir()
    save(folder / "nan.tif", np.array([[0.5, np.nan]], np.float32))
    save(folder / "negative.tif", np.array([[-1, 5]], np.int32))
    save(folder / "deep.tif", np.array([[0, 70000]], np.int32))
    save(folder / "huge.tif", np.array([[0, 1e9]], np.float32))


REASONS = {
    **{f"cut.{suffix}": "damaged or unsupported" for suffix in ("jpg", "png", "bmp", "tif")},
    "cut.webp": "damaged or unsupported|no image in a known format",
    **{f"head.{suffix}": "damaged or unsup|no image" for suffix in ("jpg", "png", "bmp", "tif")},
    "empty.jpg": "an empty file",
    "text.jpg": "a file that is no image in a known format",
    "folder.jpg": "a folder",
    "absent.jpg": "no such file",
    "nan.tif": "samples that are NaN or infinite",
    "negative.tif": r"samples -1\.\.5 outside 0\.\.65535",
    "deep.tif": r"samples 0\.\.70000 outside 0\.\.65535",
    "huge.tif": r"samples 0\.\.1e\+09 outside 0\.\.65535",
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", REASONS)
def test_bad_file_is_named_with_its_reason(tmp_path, name):
    write_bad_files(tmp_path)
    with pytest.raises(ImageError, match=rf"load_image: .*{name} must be a readable image, got: "):
        load_image(tmp_path / name)
    with pytest.raises(ImageError, match=REASONS[name]) as caught:
        load_image(tmp_path / name)
    assert caught.value.path == str(tmp_path / name)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), caught.value.reason)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_crash(tmp_path):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "bmp", "tif", "webp"):
        whole = np.frombuffer(save(tmp_path / f"a.{suffix}", noise).read_bytes(), np.uint8)
        for _ in range(30):
            broken = whole.copy()
            broken[generator.integers(0, len(whole), 8)] = generator.integers(0, 256, 8)
            (tmp_path / f"b.{suffix}").write_bytes(broken.tobytes())
            try:
                assert load_image(tmp_path / f"b.{suffix}", (12, 6)).shape == (12, 6, 3)
            except ImageError as error:
                assert error.path.endswith(f"b.{suffix}")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [400, 100])
def test_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    path = save(tmp_path / "a.png", np.zeros((21, 20), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(
        ImageError, match=r"a\.png must be .*(420 pixels|20 x 21 pixels, more than)"
    ):
        load_image(path)


def test_load_images_keeps_order_and_yields_errors(tmp_path):
    paths = [save(tmp_path / f"{n}.png", np.full((3, 2), n, np.uint8)) for n in range(9)]
    paths[4] = tmp_path / "absent.png"
    for workers in (1, 4):
        images = list(load_images(paths, workers=workers))
        assert isinstance(images[4], ImageError)
        assert [int(i[0, 0, 0]) for n, i in enumerate(images) if n != 4] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert list(load_images([])) == []
