"""Pictures: every kind of file and pixel read, converted or refused; written whole."""

import os
import struct
import zlib
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from blurlib import images
from blurlib.images import ImageError

QUADRANTS = np.zeros((4, 6, 3), np.uint8)  # red, green over blue, white: no two corners alike
QUADRANTS[:2, :3] = 255, 0, 0
QUADRANTS[:2, 3:] = 0, 255, 0
QUADRANTS[2:, :3] = 0, 0, 255
QUADRANTS[2:, 3:] = 255, 255, 255


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def pixels(image):
    return image.permute(1, 2, 0).numpy()


def error_of(path):
    with pytest.raises(ImageError) as caught:
        images.read_image(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_floats_and_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert not torch.equal(images.to_float(ones := torch.ones(1)), ones)  # not in place
    assert torch.equal(images.to_uint8(images.to_float(levels)), levels)
    x = torch.tensor([-0.1, 0.4 / 255, 0.6 / 255, 1.0, 7.0])
    assert images.to_uint8(x).tolist() == [0, 0, 1, 255, 255]
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(torch.tensor([0.5, float("nan")]))
    for wrong in (torch.zeros(3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            images.to_pillow(wrong)


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    monkeypatch.setattr(images, "from_pillow", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        images.read_image(path)


def test_the_centre_of_an_image_leaves_as_much_on_either_side():
    image = torch.arange(3 * 5 * 8).reshape(3, 5, 8)
    assert torch.equal(images.centre(image, 3, 4), image[:, 1:4, 2:6])


# Damaged and foreign files


def test_missing_folder_empty_and_text(tmp_path):
    assert "No such file" in error_of(tmp_path / "absent.png")
    assert "folder" in error_of(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    assert "0 bytes" in error_of(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture\n")
    assert "not an image" in error_of(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".bmp", ".tif", ".ppm"])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
def test_truncated(tmp_path, astronaut, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    images.write_image(path, astronaut[:, :100, :120])
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    assert "damaged" in (message := error_of(path)) or "not an image" in message


def test_a_cut_progressive_jpeg_and_a_changed_png(tmp_path, astronaut):
    path = save(tmp_path / "cut.jpg", images.to_pillow(astronaut), progressive=True)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged" in error_of(path)
    path = save(tmp_path / "changed.png", Image.fromarray(QUADRANTS))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in error_of(path)


def png(width, height, bits, rows):
    """The bytes of a PNG of RGB that Pillow cannot write: of any stated size and depth."""

    def chunk(name, data):
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 2**31 - 1])
def test_too_many_pixels(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png(side, side, 8, bytes(100)))
    assert str(images.MAX_PIXELS) in error_of(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_animation_is_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = save(tmp_path / f"moves{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert "3 frames" in error_of(path)


def test_mpo_is_its_first_photo(tmp_path):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("white", "black"))
    options = {"format": "MPO", "save_all": True, "append_images": [second]}
    assert images.read_image(save(tmp_path / "phone.jpg", first, **options)).min() == 255


# Every kind of pixel


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (64, 33)])
def test_lossless_round_trip(tmp_path, suffix, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    images.write_image(tmp_path / f"a{suffix}", image)
    assert torch.equal(images.read_image(tmp_path / f"a{suffix}"), image)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".avif", ".JPG"])
def test_lossy_formats_stay_close(tmp_path, astronaut, suffix):
    images.write_image(tmp_path / f"a{suffix}", astronaut)
    error = images.read_image(tmp_path / f"a{suffix}").float() - astronaut.float()
    assert error.abs().mean() < 2


def test_grey_bilevel_palette_and_opaque_pixels(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    opaque_grey = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (4, 3), 255)])
    opaque = Image.fromarray(np.dstack([QUADRANTS, np.full((4, 6), 255, np.uint8)]))
    palette = Image.fromarray(QUADRANTS).quantize(4)
    for name, picture, expected in (
        ("grey.png", Image.fromarray(grey), grey[..., None]),
        ("opaque_grey.png", opaque_grey, grey[..., None]),
        ("one_bit.png", Image.fromarray(grey > 100), 255 * (grey > 100)[..., None]),
        ("opaque.png", opaque, QUADRANTS),
        *((f"palette{suffix}", palette, QUADRANTS) for suffix in (".png", ".gif", ".bmp")),
    ):
        image = images.read_image(save(tmp_path / name, picture))
        assert (pixels(image) == expected).all(), name


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_levels_are_scaled(tmp_path, suffix):
    grey = np.array([[0, 128, 129, 257 * 100, 65535 - 128, 65535]], np.uint16)
    image = images.read_image(save(tmp_path / f"deep{suffix}", Image.fromarray(grey)))
    assert pixels(image)[0, :, 0].tolist() == [0, 0, 1, 100, 255, 255]
    row = b"\0" + struct.pack(">6H", 0, 257 * 7, 257 * 100, 65535, 257 * 200, 300)
    (tmp_path / "deep.png").write_bytes(png(2, 1, 16, row))  # of colour Pillow keeps the high byte
    image = images.read_image(tmp_path / "deep.png")
    assert pixels(image)[0].tolist() == [[0, 7, 100], [255, 200, 1]]


def test_pixels_that_are_transparent_or_without_an_agreed_white_are_refused(tmp_path):
    alpha = np.full((4, 6), 255, np.uint8)
    alpha[1, 1] = 254
    rgba = Image.fromarray(np.dstack([QUADRANTS, alpha]))
    assert "transparent" in error_of(save(tmp_path / "rgba.png", rgba))
    palette = Image.fromarray(QUADRANTS).quantize(4)
    assert "transparent" in error_of(save(tmp_path / "p.png", palette, transparency=0))
    rgb = Image.fromarray(QUADRANTS)
    assert "transparent" in error_of(save(tmp_path / "t.png", rgb, transparency=(255, 0, 0)))
    deep = Image.fromarray(np.zeros((2, 2), np.uint16))
    assert "transparent" in error_of(save(tmp_path / "deep.png", deep, transparency=0))
    for dtype in (np.float32, np.int32):
        picture = Image.fromarray(np.ones((2, 2), dtype))
        assert "8-bit" in error_of(save(tmp_path / "numbers.tif", picture))
    assert "LAB" in error_of(save(tmp_path / "lab.tif", Image.new("LAB", (2, 2))))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix):
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cmyk.paste((0, 0, 0, 255), (0, 0, 8, 16))
    image = images.read_image(save(tmp_path / f"cmyk{suffix}", cmyk)).int()
    black, cyan = image[:, 8, 1], image[:, 8, 14]
    assert (black < 10).all()
    assert cyan[0] < 10
    assert (cyan[1:] > 245).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    # What the camera stored for an upright QUADRANTS, by the definition of the tag:
    # (which side of the photo is row 0, which is column 0) = 1 top left, 2 top right, …
    stored = {
        1: QUADRANTS,
        2: QUADRANTS[:, ::-1],
        3: QUADRANTS[::-1, ::-1],
        4: QUADRANTS[::-1],
        5: QUADRANTS.swapaxes(0, 1),
        6: QUADRANTS.swapaxes(0, 1)[::-1],
        7: QUADRANTS.swapaxes(0, 1)[::-1, ::-1],
        8: QUADRANTS.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    # And a resolution that is text, which only matters to who writes the tags again.
    tags = struct.pack("<2H2I", 0x0112, 3, 1, orientation), struct.pack("<2HI4s", 282, 2, 3, b"72")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(tags) + bytes(4)
    picture = Image.fromarray(np.ascontiguousarray(stored))
    image = images.read_image(save(tmp_path / "turned.png", picture, exif=exif))
    assert (pixels(image) == QUADRANTS).all()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_unreadable_exif_is_ignored(tmp_path, suffix):
    for exif in (b"garbage!!", b"II*\0"):
        path = tmp_path / f"odd{suffix}"
        Image.new("RGB", (8, 8), "white").save(path, exif=b"Exif\0\0" + exif)
        assert images.read_image(path).min() == 255


def test_a_profile_of_srgb_changes_nothing_and_an_unusable_one_neither(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    srgb, xyz = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "XYZ")
    )
    for profile in (srgb, xyz, b"not a profile"):
        path = save(tmp_path / "a.png", Image.fromarray(levels), icc_profile=profile)
        assert (pixels(images.read_image(path)) == levels).all()


def linear_rgb_profile(name):
    """The profile of sRGB with a name of four letters, and no gamma in place of its curve."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    assert data.count(b"para") == 1  # all three channels share it
    at = data.index(b"para")
    return data[:at] + b"curv" + bytes(8) + data[at + 12 :]


LEVELS = np.array([0, 10, 55, 128, 200, 255])


def encoded(linear):
    """The transfer function of IEC 61966-2-1, in levels."""
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * srgb


@pytest.mark.parametrize("name", ["line", "sRGB"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_profile_is_known_by_its_curves_and_not_by_its_name(tmp_path, name, mode):
    picture = Image.fromarray(LEVELS.astype(np.uint8)[None]).convert(mode)
    path = save(tmp_path / "l.png", picture, icc_profile=linear_rgb_profile(name))
    image = pixels(images.read_image(path))[0]
    assert np.abs(image - encoded(LEVELS / 255)[:, None]).max() <= 1.5


def test_a_profile_in_jpeg_2000_is_converted(tmp_path):
    path = save(tmp_path / "a.jp2", Image.new("RGB", (8, 8), (128, 128, 128)), irreversible=False)
    data, icc = path.read_bytes(), linear_rgb_profile("line")
    head, colour, rest = data.partition(struct.pack(">I", 15) + b"colr\1\0\0" + bytes(3) + b"\x10")
    assert colour
    box = struct.pack(">I", 11 + len(icc)) + b"colr\2\0\0" + icc
    at = head.index(b"jp2h") - 4
    grown = struct.unpack_from(">I", head, at)[0] - len(colour) + len(box)
    path.write_bytes(head[:at] + struct.pack(">I", grown) + head[at + 4 :] + box + rest)
    assert (images.read_image(path) == 188).all()


XY = 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000
XY_P3 = 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000


def chunks(gamma=None, xy=None, srgb=None, codes=None):
    """What a PNG can state about its colours."""
    info = PngImagePlugin.PngInfo()
    for name, form, values in (
        (b"gAMA", ">I", gamma), (b"cHRM", ">8I", xy), (b"sRGB", "B", srgb), (b"cICP", "4B", codes)
    ):  # fmt: skip
        if values is not None:
            info.add(name, struct.pack(form, *values))
    return info


def stated(tmp_path, kind, codes=None, **others):
    """A picture of one colour, 150 120 90, whose file states its colours in this way."""
    picture = Image.new("RGB", (8, 8), (150, 120, 90))
    if kind == "png":
        codes = codes and (*codes, 0, 1)
        return save(tmp_path / "a.png", picture, pnginfo=chunks(codes=codes, **others))
    path = save(tmp_path / "a.avif", picture, quality=100, subsampling="4:4:4")
    data = bytearray(path.read_bytes())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", *codes)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "how",
    [
        {"gamma": (45455,)},
        {"gamma": (45000,), "xy": (*XY[:7], 6001)},  # nearly, as many tools write it
        {"gamma": (100000,), "xy": XY_P3, "srgb": (0,)},
        {"gamma": (0,)},
        {"codes": (1, 13), "gamma": (100000,), "xy": XY_P3},
        *({"codes": codes} for codes in ((1, 13), (1, 1), (2, 2), (1, 6))),
    ],
)
def test_a_png_or_avif_may_state_srgb_in_many_ways(tmp_path, how):
    for kind in ("png", "avif") if list(how) == ["codes"] else ("png",):  # AVIF has codes only
        image = pixels(images.read_image(stated(tmp_path, kind, **how)))[0, 0]
        assert np.abs(image - [150, 120, 90]).max() <= (0 if kind == "png" else 3)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"codes": (9, 16)}, "PQ"),
        ({"codes": (9, 18)}, "HLG"),
        ({"codes": (1, 11)}, "11"),
        ({"codes": (12, 13), "srgb": (0,)}, "12"),
        ({"codes": (1, 8)}, "8"),
        ({"gamma": (100000,)}, "gamma 1"),
        ({"xy": XY_P3}, "0.68"),
        ({"xy": 8 * (2**32 - 1,)}, "primaries"),
    ],
)
def test_other_colours_without_a_profile_are_refused_by_name(tmp_path, how, word):
    for kind in ("png", "avif") if list(how) == ["codes"] else ("png",):
        message = error_of(path := stated(tmp_path, kind, **how))
        assert word in message.removeprefix(str(path))
        assert "sRGB" in message
        with pytest.raises(ImageError, match=word), Image.open(path) as picture:
            images.from_pillow(picture)
        with Image.open(path) as picture:
            picture.load()  # as Pillow does before it saves
            with pytest.raises(ImageError, match=word):
                images.from_pillow(picture)


# Writing


def test_what_cannot_be_written_is_named_and_what_is_there_is_kept(tmp_path):
    with pytest.raises(ImageError, match=r"\.xyz.*\.png .*\.webp"):
        images.write_image(tmp_path / "a.xyz", torch.zeros(3, 2, 2, dtype=torch.uint8))
    for name, side in (("a.webp", 16383), ("a.jpg", 65500), ("a.avif", 32768)):
        images.check_sides(name[1:], side, 1)
        with pytest.raises(ImageError, match=rf"{name}: .* up to {side} pixels.*\.png"):
            images.write_image(tmp_path / name, torch.zeros(3, side + 1, 1, dtype=torch.uint8))
    assert os.listdir(tmp_path) == []
    (tmp_path / "a.png").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.png.*--force"):
        images.write_image(tmp_path / "a.png", torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert (tmp_path / "a.png").read_bytes() == b"precious"
