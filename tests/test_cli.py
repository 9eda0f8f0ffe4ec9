"""The command line as people use it: exit codes, one-line errors, files kept or written whole."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blurlib
import stand_ins
from blurlib import checkpoints, cli, images
from blurlib.codec import BlurCodec, model, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, Sampling
from blurlib.evaluation import results
from blurlib.evaluation.bd_rate import bd_rate
from conftest import one_line_error

SHIPPED = checkpoints.CODEC


@pytest.fixture
def picture(tmp_path, astronaut) -> Path:
    """A small photo, 90×70."""
    images.write_image(tmp_path / "photo.png", astronaut[:, 40:110, 180:270])
    return tmp_path / "photo.png"


@pytest.fixture
def blur(run, picture, tmp_path) -> Path:
    """The picture, compressed."""
    run("compress", picture, tmp_path / "p.blur")
    return tmp_path / "p.blur"


@pytest.fixture
def decode(run, blur, tmp_path):
    """decode(*options): the bytes of the picture that `decompress` writes."""

    def decode(*options) -> bytes:
        out = tmp_path / "out.png"
        code, _, err = run("decompress", blur, out, "--force", *options)
        assert code == 0, err
        assert Image.open(out).size == (90, 70)
        return out.read_bytes()

    return decode


@pytest.mark.slow
def test_the_noise_is_of_the_files_seed_or_the_one_given(run, picture, blur, decode, denoisers):
    assert run("compress", picture, blur, "--seed", 7, "--effort", 0, "--force")[0] == 0
    chain = ("--decoder", "diffusion", "--denoiser", denoisers["ours"], "--steps", 2)
    assert decode(*chain) == decode(*chain, "--seed", 7)
    assert len({decode(), decode(*chain), decode(*chain, "--seed", 8)}) == 3


@pytest.fixture
def denoisers(tmp_path) -> dict[str, Path]:
    """Files of a loud untrained denoiser of the shipped codec, and of one of another codec."""
    torch.manual_seed(0)
    denoiser = Denoiser(replace(stand_ins.DENOISER, cond_channels=(0, 128, 192)))
    torch.nn.init.normal_(denoiser.head.weight, std=0.1)
    process = BlurDiffusion(BlurSchedule())
    codec_id, own = zoo.load(SHIPPED).model_id, Sampling(3, solver="multistep")
    files = {
        "ours": zoo.decoder_bytes(DiffusionDecoder(denoiser, process, codec_id)),
        "multistep": zoo.decoder_bytes(DiffusionDecoder(denoiser, process, codec_id, own)),
        "other": zoo.decoder_bytes(DiffusionDecoder(denoiser, process, b"\1\2\3\4")),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    return {name: tmp_path / f"{name}.safetensors" for name in files}


@pytest.mark.slow
def test_the_chain_of_the_diffusion_decoder_is_the_users_choice(decode, denoisers):
    def chain(*options, weights="ours", steps=("--steps", 3)):
        return decode("--decoder", "diffusion", "--denoiser", denoisers[weights], *steps, *options)

    usual = chain()
    ways = [["--solver", "multistep"], ["--spacing", "uniform"], ["--start-scale", 0.5]]
    pictures = [chain(*way) for way in ways]
    assert len({usual, *pictures}) == 4
    assert chain("--solver", "ancestral", "--spacing", "logsnr", "--start-scale", 1) == usual
    assert chain(weights="multistep", steps=()) == pictures[0]  # what its file says


def test_decodes_that_cannot_be_name_what_works(run, blur, tmp_path, denoisers, monkeypatch):
    out = tmp_path / "o.png"
    command = ("decompress", blur, out, "--decoder", "diffusion", "--denoiser", denoisers["ours"])
    with monkeypatch.context() as patch:  # refused before the file is decoded
        patch.setattr(BlurCodec, "decompress", lambda *_: pytest.fail("decoded"))
        one_line_error(run(*command, "--start-scale", -1), "start_scale", "such as 0.8, got -1")
        one_line_error(run(*command, "--solver", "euler"), "euler", "multistep")
        one_line_error(run(*command, "--spacing", "linear"), "linear", "uniform")
        one_line_error(run(*command, "--memory", 0), "--memory")
        refused = run(*command, "--memory", 1)
        one_line_error(refused, "memory is 1 MiB", "128×128")
        one_line_error(run(*command[:-1], denoisers["other"]), "for codec 01020304")
    assert not out.exists()
    works = refused[2].split("takes ")[1].split(" MiB")[0]
    assert run(*command, "--steps", 1, "--memory", works)[0] == 0


def test_a_reader_may_want_small_pictures_only(run, blur, tmp_path):
    refused = run("decompress", blur, tmp_path / "o.png", "--max-megapixels", 0.001)
    assert run("decompress", blur, tmp_path / "p.png", "--max-megapixels", "inf")[0] == 0
    one_line_error(refused, "more than the limit of 1,000 pixels")


def test_info_accounts_for_every_byte_and_all_ten_passes(run, blur, monkeypatch):
    code, out, _ = run("info", blur, "--json")
    report = json.loads(out)
    size = blur.stat().st_size
    assert code == 0
    assert report["bytes"] == size == sum(part["bytes"] for part in report["layout"])
    ends = np.cumsum([part["bytes"] for part in report["layout"]])
    assert [part["offset"] for part in report["layout"][1:]] == ends[:-1].tolist()
    assert len(report["passes"]) == 10
    latent_stream = report["layout"][-1]["bytes"]
    bits = sum(coded["bits"] for coded in report["passes"])
    assert abs(latent_stream - bits / 8) <= 0.01 * latent_stream + 64
    assert run("info", blur)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(model.BlurCodec, "decode_latent", None)  # nothing is decoded unasked
        short = run("info", blur, "--json", "--no-passes")[1]
        assert run("info", blur, "--no-passes")[0] == 0
    assert json.loads(short) == report | {"passes": None}


@pytest.mark.slow
def test_a_target_rate_is_met_and_effort_makes_another_file(run, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "ITERATIONS", (0,) + 9 * (3,))
    files = []
    for effort in (0, 2):
        files.append(tmp_path / f"{effort}.blur")
        options = ("--target-bpp", 0.9, "--effort", effort)
        assert run("compress", picture, files[-1], *options)[0] == 0
        assert 8 * files[-1].stat().st_size <= 0.9 * 90 * 70
    assert files[0].read_bytes() != files[1].read_bytes()
    one_line_error(run("compress", picture, tmp_path / "q.blur", "--target-bpp", 0.001), "0.001")
    assert not (tmp_path / "q.blur").exists()


def test_a_search_that_is_interrupted_leaves_no_file(run, picture, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "search", interrupted)
    blur = tmp_path / "p.blur"
    code, _, err = run("compress", picture, blur, "--effort", 9)
    assert (code, err) == (130, "blurlib: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]


def test_an_output_that_exists_is_kept_unless_forced(run, picture, tmp_path):
    blur = tmp_path / "p.blur"
    blur.write_bytes(b"mine")
    one_line_error(run("compress", picture, blur), "p.blur", "--force")
    assert blur.read_bytes() == b"mine"
    assert run("compress", picture, blur, "--force")[0] == 0
    assert blur.read_bytes()[:4] == b"BLUR"
    one_line_error(run("decompress", blur, picture), "photo.png", "--force")


def test_what_goes_in_is_never_what_comes_out(run, picture, blur, tmp_path):
    before, link = picture.read_bytes(), tmp_path / "link.blur"
    link.symlink_to(picture)
    one_line_error(run("compress", picture, link, "--force"), "link.blur", "is IN")
    os.link(blur, tmp_path / "same.png")
    one_line_error(run("decompress", blur, tmp_path / "same.png", "--force"), "is IN")
    for name in ("photo.png", "p", "p.blur.zip"):
        one_line_error(run("compress", picture, tmp_path / name, "--force"), name, ".blur")
    assert picture.read_bytes() == before


def test_a_format_that_cannot_hold_the_photo_is_refused_before_decoding(run, tmp_path, monkeypatch):
    long = BlurFile(zoo.load(SHIPPED).model_id, 16384, 1, 3.0, 0, b"", b"")
    (tmp_path / "long.blur").write_bytes(long.to_bytes())
    monkeypatch.setattr(BlurCodec, "decompress", lambda *_: pytest.fail("decoded"))
    refused = run("decompress", tmp_path / "long.blur", tmp_path / "o.webp")
    one_line_error(refused, "16383 pixels", ".png")


@pytest.fixture
def pipe(monkeypatch):
    """pipe(data, *arguments): run a command on this standard input: (exit code, stdout, stderr)."""

    def pipe(data, *arguments):
        streams = [io.TextIOWrapper(io.BytesIO(part), "ascii") for part in (data, b"", b"")]
        monkeypatch.setattr(sys, "argv", ["blurlib", *map(str, arguments)])
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as end:
            cli.run(cli.app)
        for stream in streams[1:]:
            stream.flush()
        return end.value.code, *(stream.buffer.getvalue() for stream in streams[1:])

    return pipe


def test_a_dash_is_standard_input_and_output(pipe, picture, blur, tmp_path):
    code, data, words = pipe(picture.read_bytes(), "compress", "-", "-")
    assert (code, data) == (0, blur.read_bytes())
    assert b"90\\xd770" in words
    code, shown, words = pipe(data, "decompress", "-", "-")
    assert code == 0, words
    with Image.open(io.BytesIO(shown)) as opened:
        assert (opened.format, opened.size) == ("PNG", (90, 70))
    assert b"-: 90" in pipe(data, "info", "-")[1]
    assert not (tmp_path / "-").exists()
    for arguments, word in (
        (("compress", "-", "-"), b"stdin: "),
        (("decompress", "-", "-"), b"stdin: not a .blur"),
    ):
        code, out, words = pipe(b"neither", *arguments)
        assert (code, out, words.count(b"\n")) == (2, b"", 1)
        assert word in words


def test_a_picture_is_not_written_to_a_terminal(run, blur, monkeypatch):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    one_line_error(run("decompress", blur, "-"), "terminal")


def test_a_reader_that_has_gone_ends_a_command_quietly(pipe, blur, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "say", gone)
    code, _, words = pipe(b"", "info", blur)
    assert (code, words) == (1, b"")


NAMES = ["[x]", "br[/x]", "two  spaces", "a" * 100, "caf\u00e9\x1b[31m", "\udcff"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_printed_plainly_on_any_console(pipe, picture, tmp_path, name):
    """The console knows only ASCII."""
    source, target = tmp_path / f"{name}.blur", tmp_path / f"{name}.png"
    source.parent.mkdir(exist_ok=True)
    shown = name.encode("unicode_escape") if not name.isascii() else name.encode()
    for command in (
        ("compress", picture, source),
        ("decompress", source, target),
        ("info", source),
    ):
        code, out, words = pipe(b"", *command)
        assert (code, words) == (0, b"")
        assert shown in out.partition(b"\n")[0]
    code, _, words = pipe(b"", "decompress", source, target)
    assert (code, words.count(b"\n")) == (2, 1)
    assert shown in words


def test_a_bar_shows_any_text(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    stream.isatty = lambda: True
    with cli.progress() as bar:
        bar.add_task("br[/x]", total=1)
    assert "br[/x]" in stream.getvalue()


def test_a_damaged_file_leaves_nothing_behind(run, blur, tmp_path):
    out = tmp_path / "out.png"
    for broken, word in ((blur.read_bytes()[:-1], "cut"), (b"", "not a .blur file")):
        blur.write_bytes(broken)
        one_line_error(run("decompress", blur, out), "p.blur", word)
        one_line_error(run("info", blur), "p.blur", word)
        assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["compress", "a.png"], "OUT"),
        (["compress", "a.png", "b.blur", "--quality", "abc"], "--quality"),
        (["compress", "a.png", "b.blur", "--seed", 2**32], "--seed"),
        (["compress", "a.png", "b.blur", "--effort", 10], "--effort"),
        (["decompress", "a.blur", "b.png", "--decoder", "magic"], "magic"),
        (["decompress", "a.blur", "b.png", "--steps", 0], "--steps"),
        (["nonsense"], "nonsense"),
        (["info", "a.blur", "--no-such-option"], "--no-such-option"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, word):
    one_line_error(run(*arguments), word)


def test_help_has_every_command_and_an_example_of_each(run):
    for arguments, code in ((["--help"], 0), ([], 2)):
        result = run(*arguments)
        assert result[0] == code
        assert "decompress" in result[1] + result[2]
    for command in (each.callback.__name__ for each in cli.app.registered_commands):
        assert f"Example: blurlib {command}" in run(command, "--help")[1]
    assert run("--version") == (0, f"blurlib {blurlib.__version__}\n", "")


def test_codecs_names_every_model_and_what_a_missing_codec_needs(run, monkeypatch):
    reason = "jpegxl: needs the package imagecodecs: pip install 'blurlib[baselines]'"
    found = {"webp": None, "jpegxl": reason}
    monkeypatch.setattr("blurlib.evaluation.codecs.available", lambda: found)
    monkeypatch.setattr(cli.console, "width", 200)
    code, out, _ = run("codecs")
    assert code == 0
    assert all(name in out for name in ("webp", reason, *zoo.names()))


def test_wrong_arguments_are_one_line(run, picture, tmp_path, tiny_codec_path):
    out = tmp_path / "o.blur"
    one_line_error(run("compress", picture, out, "--quality", 99), "quality", "6")
    one_line_error(run("compress", picture, out, "--quality", 3, "--target-bpp", 1), "exclude")
    one_line_error(run("compress", tmp_path / "none.png", out), "none.png")
    one_line_error(run("compress", picture, out, "--model", "nope"), "nope", SHIPPED)
    one_line_error(run("compress", picture, tmp_path / "no" / "o.blur"), "no")
    one_line_error(run("decompress", picture, tmp_path / "o.xyz"), ".xyz", ".png")
    one_line_error(run("evaluate", tmp_path, "--codec", "nope"), "nope", "webp")
    wrong = run("evaluate", tmp_path, "--codec", SHIPPED, "--decoder", "deterministic")
    one_line_error(wrong, "'deterministic'", "'direct', 'diffusion'")
    one_line_error(run("train", "nope", "--run", tmp_path / "r"), "tiny")
    assert not out.exists()
    assert run("compress", picture, out, "--model", tiny_codec_path)[0] == 0
    one_line_error(run("decompress", out, tmp_path / "o.png"), "not shipped")
    assert run("decompress", out, tmp_path / "o.png", "--model", tiny_codec_path)[0] == 0
    assert json.loads(run("info", out, "--json")[1])["passes"] is None


CHAIN = {"steps": 2, "solver": "multistep", "spacing": "uniform", "start-scale": 0.8, "seed": 0}
NETWORK = {"denoiser": "isotropic-small", "memory": 2048}


def test_options_that_the_decoder_ignores_are_refused(run, tmp_path):
    for command in (
        ("decompress", "none.blur", "o.png"),
        ("evaluate", tmp_path, "--codec", SHIPPED),
    ):
        for name, value in (CHAIN | NETWORK).items():
            refused = run(*command, "--decoder", "direct", f"--{name}", value)
            one_line_error(refused, f"--{name} is for --decoder diffusion, not direct")


@pytest.mark.parametrize("option", [*CHAIN.items(), *NETWORK.items(), ("effort", 1)])
def test_options_that_another_codec_ignores_are_refused(run, tmp_path, option):
    refused = run("evaluate", tmp_path, "--codec", "webp", f"--{option[0]}", option[1])
    one_line_error(refused, f"--{option[0]} is for", "not webp")
    one_line_error(run("evaluate", tmp_path, "--codec", "webp", "--decoder", "direct"), "not webp")


def test_huge_numbers_and_endless_inputs_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("blurlib.files.LIMIT", 2**24)
    out, steps = tmp_path / "o.png", ("--decoder", "diffusion", "--steps", 10**9)
    one_line_error(run("decompress", "none.blur", out, *steps), "steps", "10000")
    one_line_error(run("demo", "--steps", 10**9, "--out", tmp_path / "demo"), "steps", "10000")
    one_line_error(run("compress", "/dev/zero", tmp_path / "o.blur"), "/dev/zero", "16 MiB")
    one_line_error(run("decompress", "/dev/zero", out), "/dev/zero", "16 MiB")
    assert os.listdir(tmp_path) == []


def allocate_a_pebibyte(*_, **__):
    torch.empty(2**50, dtype=torch.uint8)


def cuda_runs_out(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("runs_out", [allocate_a_pebibyte, cuda_runs_out])
def test_training_that_runs_out_of_memory_says_what_to_lower(run, tmp_path, monkeypatch, runs_out):
    monkeypatch.setattr("blurlib.training.loop.train", runs_out)
    result = run("train", "tiny", "--run", tmp_path / "r", "--set", "batch=7")
    one_line_error(result, "out of memory", "smaller batch, crop or bank_gb", "--set batch=2")


def test_a_photo_that_runs_out_of_memory_is_too_large(run, picture, tmp_path, monkeypatch):
    def fault(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(BlurCodec, "compress", allocate_a_pebibyte)
    result = run("compress", picture, tmp_path / "p.blur")
    one_line_error(result, "out of memory: a smaller photo takes less")
    monkeypatch.setattr(BlurCodec, "compress", fault)  # of memory, but not too little of it
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run("compress", picture, tmp_path / "p.blur")


@pytest.mark.slow
def test_train_evaluate_and_bdrate(run, three_photos, tmp_path):
    run_folder = tmp_path / "run"
    arguments = ("train", "tiny", "--run", run_folder, "--data", three_photos, "--steps", 1)
    arguments += ("--set", "held_out=0", "--set", "start=random")
    assert run(*arguments)[0] == 0
    one_line_error(run(*arguments), "resume")
    out, model = tmp_path / "results", run_folder / "model.safetensors"
    quick = ("--out", out, "--lpips", "none", "--jobs", 1)
    assert run("evaluate", three_photos, "--codec", model, "--qualities", "1,2", *quick)[0] == 0
    for codec in ("webp", "jpeg"):
        qualities = ("--qualities", "20,40,60,80")
        assert run("evaluate", three_photos, "--codec", codec, *qualities, *quick)[0] == 0
    files = {path.stem: path for path in out.glob("*/*.json")}
    both = (results.averages(results.read(files[name])) for name in ("webp", "jpeg"))
    expected = bd_rate(*(table[["bpp", "psnr"]] for table in both), "pchip").value
    how = ("--metric", "psnr", "--method", "pchip")
    assert f"{expected:+.2f} %" in run("bdrate", files["webp"], files["jpeg"], *how)[1]
    few = run("bdrate", files["webp"], files["model-direct"], "--metric", "psnr")
    one_line_error(few, "at least 4")


@pytest.fixture
def measuring(picture, tmp_path):
    """Arguments that measure a folder with one photo, quickly; and the file they write."""
    photos = tmp_path / "photos"
    photos.mkdir()
    picture.rename(photos / "photo.png")
    out = tmp_path / "results"
    quick = ("--codec", "jpeg", "--qualities", "40,20,40", "--lpips", "none", "--jobs", 1)
    return ("evaluate", photos, *quick, "--out", out), out / "photos" / "jpeg.json"


@pytest.fixture
def short(monkeypatch):
    """WebP as if its sides ended at 80 pixels, so that no photo need be of 16,384."""
    from blurlib.evaluation import codecs

    webp = replace(codecs.WEBP, longest=80)
    assert codecs.WEBP.longest == 16383
    known = tuple(webp if codec.name == "webp" else codec for codec in codecs.KNOWN)
    monkeypatch.setattr(codecs, "KNOWN", known)


def test_photos_too_long_for_a_codec_are_skipped_by_name(run, measuring, short):
    command, file = measuring
    webp = [part if part != "jpeg" else "webp" for part in command]
    one_line_error(run(*webp), "photo.png", "webp", "80 pixels")
    images.write_image(command[1] / "other.png", torch.zeros(3, 70, 80, dtype=torch.uint8))
    code, out, _ = run(*webp)
    assert code == 0
    assert "photo.png: skipped: webp takes sides up to 80 pixels" in out
    assert "2 rows of 1 images" in out
    content = json.loads(file.with_name("webp.json").read_text())
    rows = [(row["image"], row["quality"]) for row in content["rows"]]
    assert (content["lpips"], rows) == (None, [("other.png", 20), ("other.png", 40)])


def test_evaluate_records_how_the_chain_was_run(run, measuring, denoisers):
    command, file = measuring
    command = [*command[:2], "--codec", SHIPPED, "--qualities", "2", *command[6:]]
    ours = [*command, "--decoder", "diffusion", "--denoiser", denoisers["ours"]]
    how = ["--steps", 2, "--solver", "multistep", "--spacing", "uniform", "--start-scale", 0.8]
    assert run(*ours, *how, "--seed", 3)[0] == 0
    content = json.loads((file.parent / f"{SHIPPED}-diffusion.json").read_text())
    recorded = {k: v for k, v in content["settings"].items() if k not in ("denoiser", "memory")}
    assert recorded == {
        "decoder": "diffusion", "effort": 0, "steps": 2, "seed": 3, "solver": "multistep",
        "spacing": "uniform", "start_scale": 0.8,
    }  # fmt: skip
    assert content["seed"] == 3
    one_line_error(run(*ours, *how), "another settings, seed", "--force")


def test_evaluate_refuses_in_one_line(run, measuring, tmp_path, empty_home):
    command, file = measuring
    run(*command)
    file.write_text(file.read_text().replace('"protocol": 2', '"protocol": 1'))
    one_line_error(run(*command), str(file), "protocol 1", "measure it again", "--force")
    assert run(*command, "--force")[0] == 0
    one_line_error(run("evaluate", "nowhere", *command[2:]), "nowhere", "kodak", "other-worlds")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    one_line_error(run("evaluate", tmp_path, *command[2:]), "bad.png")
    one_line_error(run(*command, "--lpips", "resnet"), "resnet", "squeeze")
    one_line_error(run(*command, "--jobs", 0), "--jobs")


@pytest.mark.slow
def test_the_demo_makes_its_table_and_its_picture(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path / "demo", "--steps", 2)
    assert code == 0
    for name in ("blurlib direct", "blurlib diffusion", "JPEG", "WEBP", "AVIF"):
        assert name in out
    files = {p.name: p.stat().st_size for p in (tmp_path / "demo").iterdir()}
    assert files["photo.webp"] <= files["photo.blur"] + 1024
    assert Image.open(tmp_path / "demo" / "comparison.png").size[0] > 1000


@pytest.mark.slow
def test_the_installed_command_answers():
    command = Path(sys.executable).parent / "blurlib"
    result = subprocess.run([command, "info", os.devnull], capture_output=True, text=True)
    one_line_error((result.returncode, "", result.stderr), os.devnull, "not a .blur file")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
@pytest.mark.parametrize("arguments", [["info"], ["decompress", "-"], ["codecs"]])
def test_a_full_device_is_one_line(arguments, blur):
    command, *rest = arguments
    inputs = [] if command == "codecs" else [blur]
    code = "from blurlib.cli import main; main()"
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, command, *inputs, *rest],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    one_line_error((result.returncode, "", result.stderr), "stdout: No space left")


def test_a_photo_whose_name_is_not_utf_8_is_measured(run, measuring):
    command, file = measuring
    (command[1] / "photo.png").rename(command[1] / "caf\udce9.png")
    for _ in range(2):  # the second time from the file
        code, out, err = run(*command)
        assert (code, err) == (0, "")
        assert "2 rows of 1 images" in out
    content = json.loads(file.read_bytes().decode())
    assert {row["image"] for row in content["rows"]} == {"caf\udce9.png"}


def test_a_plot_that_cannot_be_drawn_to_the_end_leaves_the_earlier_one(tmp_path):
    class Figure:
        def savefig(self, file, **_):
            with open(file, "wb") if isinstance(file, Path) else file as half:
                half.write(b"half")
                raise OSError("the disk is full")

    (tmp_path / "curves.png").write_bytes(b"earlier")
    with pytest.raises(OSError, match="full"):
        cli._save(Figure(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == b"earlier"
