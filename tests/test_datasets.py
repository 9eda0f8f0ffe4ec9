"""Sets of pictures: found, checked, refused in one line."""

import re
from pathlib import Path

import numpy as np
import pooch
import pytest

from blurlib import datasets, images
from blurlib.images import ImageError


def pixels(image):
    return image.permute(1, 2, 0).numpy()


OTHER = {"histology": "immunohistochemistry", "sky": "hubble_deep_field", "texture": "gravel"}


@pytest.mark.parametrize("name", ["astronaut", "retina", "page", *OTHER])
def test_embedded_pictures_are_the_ones_scikit_image_gives(name):
    from skimage import data

    expected = getattr(data, OTHER.get(name, name))()
    image = pixels(datasets.embedded(name))
    if name == "page":
        # Its profile, a dot gain of 20 %, makes it lighter; no two greys change order.
        assert (image == image[..., :1]).all()
        order = np.argsort(expected, axis=None, kind="stable")
        assert (np.diff(image[..., 0].ravel()[order].astype(int)) >= 0).all()
    else:
        assert (image == (expected if expected.ndim == 3 else expected[..., None])).all()


@pytest.mark.parametrize(
    ("name", "count", "side"), [("embedded", 6, 300), ("other-worlds", 5, 191), ("text", 2, 172)]
)
def test_embedded_sets_are_in_the_wheels(name, count, side):
    paths = datasets.dataset(name)
    assert paths == [datasets.embedded_path(p) for p in datasets.embedded_names(name)]
    assert len(set(paths)) == count
    assert min(min(images.read_image(path).shape[1:]) for path in paths) == side


def test_an_unknown_photo_and_the_place_of_the_cache(monkeypatch, tmp_path):
    with pytest.raises(ImageError, match=r"lena.*astronaut"):
        datasets.embedded("lena")
    monkeypatch.setenv("BLURLIB_HOME", str(tmp_path))
    assert datasets.home() == tmp_path
    monkeypatch.delenv("BLURLIB_HOME")
    assert datasets.home().name == "blurlib"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(pooch.core, "stream_download", refuse)


@pytest.mark.parametrize(("name", "count"), [("kodak", 24), ("clic2025-subset", 8)])
def test_photos_with_a_known_hash(empty_home, offline, monkeypatch, name, count):
    """Present they need no network; another file is kept and refused; a missing one is named."""
    shop = pooch.create(empty_home, "")
    shop.load_registry(Path(datasets.__file__).with_suffix(".txt"))
    paths = [empty_home / "datasets" / f for f in shop.registry if f.startswith(f"{name}/")]
    assert len(paths) == count
    with pytest.raises(ImageError, match=rf"{re.escape(str(paths[0]))}: missing.*BLURLIB_HOME"):
        datasets.dataset(name)
    paths[0].parent.mkdir(parents=True)
    paths[0].write_text("mine")
    with pytest.raises(ImageError, match=rf"{re.escape(str(paths[0]))}: is not the original"):
        datasets.dataset(name)
    assert paths[0].read_text() == "mine"
    for path in paths:
        path.write_text("photo")
    monkeypatch.setattr(pooch, "file_hash", lambda path: shop.registry[f"{name}/{path.name}"])
    assert datasets.dataset(name) == paths


def test_a_folder_is_its_images_sorted_wherever_it_is(tmp_path, empty_home):
    cached = empty_home / "datasets" / "mine"
    for folder, name in ((tmp_path / "elsewhere", None), (cached, "mine")):
        folder.mkdir(parents=True)
        with pytest.raises(ImageError, match="no images"):
            datasets.folder(folder)
        for file in ("b.png", "a.JPG", "notes.txt", "._a.JPG", ".hidden.png"):
            (folder / file).write_bytes(b"")
        (folder / "c.png").mkdir()
        found = datasets.dataset(name or folder)
        assert found == datasets.folder(folder) == [folder / "a.JPG", folder / "b.png"]
    sets = "kodak, clic2025-subset, embedded, other-worlds, text"
    with pytest.raises(ImageError, match=rf"absent: no such folder, .*{sets}"):
        datasets.dataset("absent")
