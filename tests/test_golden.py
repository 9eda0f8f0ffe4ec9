"""Files written long ago decode to the symbols and the pictures they decoded to then."""

from pathlib import Path

import pytest
import torch

from blurlib import images, metrics
from blurlib.codec import zoo
from blurlib.codec.bitstream import BlurFile

FILES = sorted((Path(__file__).parent / "golden").glob("*.blur"))


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes(path, threads):
    """The symbols' checksum inside the file says that ŷ is what it was, on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        file = BlurFile.from_bytes(path.read_bytes())
        decoded = images.to_uint8(zoo.load_by_id(file.model_id).decompress(file).x_hat[0])
    finally:
        torch.set_num_threads(before)
    then = images.read_image(path.with_suffix(".png"))
    assert decoded.shape == then.shape == (3, file.height, file.width)
    # The main decoder is float32 arithmetic: a grey level here and there may round differently.
    assert metrics.psnr(decoded, then) > 55


def test_there_are_golden_files():
    sizes = {(f.width, f.height) for f in (BlurFile.from_bytes(p.read_bytes()) for p in FILES)}
    assert (1, 1) in sizes
    assert len(sizes) >= 4
