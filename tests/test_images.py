import io
import os
import struct
import zlib

import numpy as np
import pooch
import pytest
import torch
from PIL import Image, ImageCms

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


# ---------------------------------------------------------------- tensors


def test_every_level_survives_the_round_trip_through_floats():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images.to_uint8(images.to_float(levels)), levels)


def test_to_uint8_clamps_and_rounds():
    x = torch.tensor([-0.1, 0.4 / 255, 0.6 / 255, 1.0, 7.0])
    assert images.to_uint8(x).tolist() == [0, 0, 1, 255, 255]


def test_to_uint8_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(torch.tensor([0.5, float("nan")]))


# ---------------------------------------------------------------- damaged and foreign files


def test_missing_folder_empty_and_text(tmp_path):
    assert "no such file" in error_of(tmp_path / "absent.png")
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


def test_truncated_progressive_jpeg(tmp_path, astronaut):
    path = save(tmp_path / "cut.jpg", images.to_pillow(astronaut), progressive=True)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged" in error_of(path)


def test_changed_byte_in_png(tmp_path):
    path = save(tmp_path / "changed.png", Image.fromarray(QUADRANTS))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(bytes(data))
    assert "damaged" in error_of(path)


def png_chunk(name, data):
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


@pytest.mark.parametrize("side", [10_000, 2**31 - 1])
def test_too_many_pixels(tmp_path, side):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100)))
    )
    assert str(images.MAX_PIXELS) in error_of(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_animation_is_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = save(tmp_path / f"moves{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert "3 frames" in error_of(path)


def test_mpo_is_its_first_photo(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    path = save(
        tmp_path / "phone.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:]
    )
    assert images.read_image(path).min() == 255


# ---------------------------------------------------------------- every kind of pixel


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


def test_grey_and_bilevel(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    image = images.read_image(save(tmp_path / "grey.png", Image.fromarray(grey)))
    assert (pixels(image) == grey[..., None]).all()
    bilevel = Image.fromarray(grey > 100)
    image = images.read_image(save(tmp_path / "one_bit.png", bilevel))
    assert (pixels(image) == 255 * (grey > 100)[..., None]).all()


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp"])
def test_palette(tmp_path, suffix):
    palette = Image.fromarray(QUADRANTS).quantize(4)
    image = images.read_image(save(tmp_path / f"palette{suffix}", palette))
    assert (pixels(image) == QUADRANTS).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_scaled(tmp_path, suffix):
    grey = np.array([[0, 128, 129, 257 * 100, 65535 - 128, 65535]], np.uint16)
    image = images.read_image(save(tmp_path / f"deep{suffix}", Image.fromarray(grey)))
    assert pixels(image)[0, :, 0].tolist() == [0, 0, 1, 100, 255, 255]


def test_16_bit_colour_is_scaled(tmp_path):
    row = b"\0" + struct.pack(">6H", 0, 257 * 7, 257 * 100, 65535, 257 * 200, 300)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + header
        + png_chunk(b"IDAT", zlib.compress(row))
        + png_chunk(b"IEND", b"")
    )
    image = images.read_image(tmp_path / "deep.png")
    assert pixels(image)[0].tolist() == [[0, 7, 100], [255, 200, 1]]


@pytest.mark.parametrize(
    "array", [np.ones((2, 2), np.float32), np.ones((2, 2), np.int32)], ids=["float", "int32"]
)
def test_numbers_without_a_white_are_refused(tmp_path, array):
    assert "8-bit" in error_of(save(tmp_path / "numbers.tif", Image.fromarray(array)))


def test_lab_is_refused(tmp_path):
    assert "LAB" in error_of(save(tmp_path / "lab.tif", Image.new("LAB", (2, 2))))


def test_opaque_alpha_is_dropped(tmp_path):
    opaque = np.dstack([QUADRANTS, np.full((4, 6), 255, np.uint8)])
    image = images.read_image(save(tmp_path / "opaque.png", Image.fromarray(opaque)))
    assert (pixels(image) == QUADRANTS).all()
    grey = Image.merge("LA", [Image.new("L", (3, 2), 77), Image.new("L", (3, 2), 255)])
    assert (images.read_image(save(tmp_path / "grey.png", grey)) == 77).all()


def test_transparent_pixels_are_refused(tmp_path):
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
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    image = images.read_image(save(tmp_path / "turned.png", picture, exif=exif))
    assert (pixels(image) == QUADRANTS).all()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_unreadable_exif_is_ignored(tmp_path, suffix):
    path = tmp_path / f"odd{suffix}"
    Image.new("RGB", (8, 8), "white").save(path, exif=b"Exif\0\0garbage!!")
    assert images.read_image(path).min() == 255


def xyz_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


def test_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = save(tmp_path / "srgb.png", Image.fromarray(levels), icc_profile=profile)
    assert (pixels(images.read_image(path)) == levels).all()


@pytest.mark.parametrize("profile", [b"not a profile", xyz_profile()], ids=["broken", "other"])
def test_unusable_profile_is_ignored(tmp_path, profile):
    path = save(tmp_path / "odd.png", Image.fromarray(QUADRANTS), icc_profile=profile)
    assert (pixels(images.read_image(path)) == QUADRANTS).all()


def linear_rgb_profile():
    """An ICC v2 matrix profile with sRGB's primaries and gamma 1, built by hand."""

    def s15(*values):
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + s15(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ \0\0\0\0" + s15(0.4361, 0.2225, 0.0139),
        b"gXYZ": b"XYZ \0\0\0\0" + s15(0.3851, 0.7169, 0.0971),
        b"bXYZ": b"XYZ \0\0\0\0" + s15(0.1431, 0.0606, 0.7141),
    } | {name: b"curv\0\0\0\0" + struct.pack(">I", 0) for name in (b"rTRC", b"gTRC", b"bTRC")}
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12x4s4s24x12s48x",
        132 + 12 * len(tags) + len(body),
        b"lcms",
        0x02400000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        b"APPL",
        s15(0.9642, 1.0, 0.8249),
    )
    return header + table + body


def test_profile_is_converted_to_srgb(tmp_path):
    levels = np.array([0, 10, 55, 128, 200, 255])
    grey = np.repeat(levels.astype(np.uint8)[None, :, None], 3, axis=2)
    path = save(tmp_path / "l.png", Image.fromarray(grey), icc_profile=linear_rgb_profile())
    linear = levels / 255  # the transfer function of IEC 61966-2-1
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(pixels(images.read_image(path))[0] - 255 * srgb[:, None]).max() <= 1.5


# ---------------------------------------------------------------- writing


def test_unknown_suffix_names_those_that_work(tmp_path):
    with pytest.raises(ImageError, match=r"\.xyz.*\.png .*\.webp"):
        images.write_image(tmp_path / "a.xyz", torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert os.listdir(tmp_path) == []


def test_existing_output_is_kept(tmp_path, astronaut):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.png.*--force"):
        images.write_image(path, astronaut)
    assert path.read_bytes() == b"precious"
    images.write_image(path, astronaut, overwrite=True)
    assert torch.equal(images.read_image(path), astronaut)
    assert os.listdir(tmp_path) == ["a.png"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    images.atomic_write(path, b"old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        images.atomic_write(path, b"new", overwrite=True)
    assert os.listdir(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_failed_encoding_leaves_nothing(tmp_path):
    with pytest.raises(ImageError, match="WEBP"):
        images.write_image(tmp_path / "a.webp", torch.zeros(3, 1, 16384, dtype=torch.uint8))
    assert os.listdir(tmp_path) == []


def test_impossible_targets(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        images.atomic_write(tmp_path / "none" / "a.bin", b"")
    with pytest.raises(IsADirectoryError, match="folder"):
        images.atomic_write(tmp_path, b"", overwrite=True)
    with pytest.raises(OSError, match="device"):
        images.atomic_write(os.devnull, b"", overwrite=True)


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    images.atomic_write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_to_pillow_refuses_other_tensors():
    for wrong in (torch.zeros(3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            images.to_pillow(wrong)


# ---------------------------------------------------------------- sets


@pytest.mark.parametrize("name", images.embedded_names())
def test_embedded_photos_are_in_the_wheels(name):
    image = images.embedded(name)
    assert image.shape[0] == 3
    assert min(image.shape[1:]) >= 300


def test_embedded_photo_is_the_one_scikit_image_gives(astronaut):
    from skimage import data

    assert (pixels(astronaut) == data.astronaut()).all()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("retina", "retina"),
        ("histology", "immunohistochemistry"),
        ("sky", "hubble_deep_field"),
        ("texture", "gravel"),
        ("page", "page"),
    ],
)
def test_other_worlds_are_the_ones_scikit_image_gives(name, function):
    from skimage import data

    expected = getattr(data, function)()
    image = pixels(images.embedded(name))
    if (
        name == "page"
    ):  # its profile, a dot gain of 20 %, makes it lighter; no two greys change order
        assert (image == image[..., :1]).all()
        order = np.argsort(expected, axis=None, kind="stable")
        assert (np.diff(image[..., 0].ravel()[order].astype(int)) >= 0).all()
    else:
        assert (image == (expected if expected.ndim == 3 else expected[..., None])).all()
    assert name in images.embedded_names("other-worlds")
    assert images.embedded_path(name) in images.dataset("other-worlds")


def test_other_worlds_are_five_pictures_large_enough_for_ms_ssim():
    paths = images.dataset("other-worlds")
    assert len({path.name for path in paths}) == 5
    assert min(min(images.read_image(path).shape[1:]) for path in paths) == 191
    assert not set(images.embedded_names()) & set(images.embedded_names("other-worlds"))


def test_unknown_embedded_photo():
    with pytest.raises(ImageError, match=r"lena.*astronaut"):
        images.embedded("lena")


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("BLURLIB_HOME", str(tmp_path))
    assert images.home() == tmp_path
    monkeypatch.delenv("BLURLIB_HOME")
    assert images.home().name == "blurlib"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(pooch.core, "stream_download", refuse)


def test_kodak_with_another_hash_is_an_error(empty_home, offline):
    path = empty_home / "datasets" / "kodak" / "kodim01.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(QUADRANTS).save(path)
    before = path.read_bytes()
    with pytest.raises(ImageError, match=r"kodim01\.png.*SHA-256"):
        images.kodak()
    assert path.read_bytes() == before


def test_kodak_that_cannot_be_fetched(empty_home, offline):
    with pytest.raises(ImageError, match=r"kodim01\.png.*missing.*BLURLIB_HOME"):
        images.kodak()


def test_kodak_present_needs_no_network(empty_home, offline, monkeypatch):
    folder = empty_home / "datasets" / "kodak"
    folder.mkdir(parents=True)
    for name in images._KODAK_SHA256:
        (folder / name).write_text(name)
    sums = {name: pooch.file_hash(folder / name) for name in images._KODAK_SHA256}
    monkeypatch.setattr(images, "_KODAK_SHA256", sums)
    assert images.kodak() == [folder / f"kodim{i:02}.png" for i in range(1, 25)]


def test_the_clic_subset_is_checked_and_says_where_a_missing_file_belongs(
    empty_home, offline, monkeypatch
):
    folder = empty_home / "datasets" / "clic2025-subset"
    folder.mkdir(parents=True)
    names = list(images._CLIC_SHA256)
    assert len(names) == 8
    for name in names:
        (folder / name).write_text(name)
    with pytest.raises(ImageError, match=rf"{names[0]}: is not the CLIC original"):
        images.dataset("clic2025-subset")
    sums = {name: pooch.file_hash(folder / name) for name in names}
    monkeypatch.setattr(images, "_CLIC_SHA256", sums)
    assert images.dataset("clic2025-subset") == [folder / name for name in names]
    (folder / names[3]).unlink()
    with pytest.raises(ImageError, match=rf"{folder / names[3]}: missing.*BLURLIB_HOME"):
        images.dataset("clic2025-subset")


def test_the_real_clic_subset_passes_where_it_is():
    folder = images.home() / "datasets" / "clic2025-subset"
    if not folder.is_dir():
        pytest.skip("the photos are not on this machine")
    assert images.clic2025_subset() == sorted(folder.iterdir())


def test_folder_is_sorted_and_only_images(tmp_path):
    with pytest.raises(ImageError, match="no images"):
        images.folder(tmp_path)
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.png").mkdir()
    assert [p.name for p in images.folder(tmp_path)] == ["a.JPG", "b.png"]


def test_dataset(tmp_path, empty_home):
    assert len(images.dataset("embedded")) == len(images.embedded_names())
    (tmp_path / "a.png").write_bytes(b"")
    assert images.dataset(tmp_path) == [tmp_path / "a.png"]
    cached = empty_home / "datasets" / "mine"
    cached.mkdir(parents=True)
    (cached / "b.png").write_bytes(b"")
    assert images.dataset("mine") == [cached / "b.png"]
    sets = "kodak, clic2025-subset, embedded, other-worlds, text"
    with pytest.raises(ImageError, match=rf"absent: no such folder, .*{sets}"):
        images.dataset("absent")


def test_decode_image_is_read_image(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(QUADRANTS).save(buffer, "PNG")
    assert (pixels(images.decode_image(buffer.getvalue())) == QUADRANTS).all()


@pytest.mark.parametrize(("H", "W"), [(5, 7), (4, 6), (1, 1), (5, 2)])
def test_the_centre_of_an_image_leaves_as_much_on_either_side(H, W):
    image = torch.arange(3 * 5 * 7).reshape(3, 5, 7)
    part = images.centre(image, H, W)
    assert part.shape == (3, H, W)
    top, left = divmod(int(part[0, 0, 0]), 7)
    assert 0 <= (5 - H - top) - top <= 1
    assert 0 <= (7 - W - left) - left <= 1
