import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageChops

from scripts import explain
from utils.checkpoint import load_weights, save_weights
from utils.files import WEIGHTS
from utils.gradcam import compute_cams
from utils.transforms import CLASSES, load_image, normalize

ROW, COLUMN = np.mgrid[:480, :640] / 100
WAVES = np.stack([np.sin(ROW + COLUMN), np.cos(COLUMN - 2 * ROW), np.sin(2 * COLUMN + 3 * ROW)], -1)
PIXELS = (128 + 70 * WAVES + np.random.default_rng(0).integers(-30, 30, WAVES.shape)).astype(np.uint8)
LEVELS = PIXELS[..., 0]
COLOR, GRAY, BLACK = Image.fromarray(PIXELS), Image.fromarray(LEVELS), Image.new("L", (640, 480))
INK = ImageChops.invert(GRAY)  # black of this opacity over white is GRAY
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: turn clockwise by 90 degrees
ENCODINGS = {
    "plain.png": COLOR.save,
    "turned.jpg": lambda path: COLOR.transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=TURNED),
    "cmyk.jpg": lambda path: COLOR.convert("CMYK").save(path, quality=95),
    "animated.gif": lambda path: COLOR.convert("P").save(path, save_all=True, append_images=[BLACK]),
    "16 bits.png": lambda path: cv2.imwrite(path, PIXELS[..., ::-1] * np.uint16(257)),
    "16 bits.tiff": lambda path: cv2.imwrite(path, PIXELS[..., ::-1] * np.uint16(257)),
    "0 to 1.tiff": lambda path: cv2.imwrite(path, PIXELS[..., ::-1] / np.float32(255)),
    "gray, 16 bits.png": Image.fromarray(LEVELS * np.uint16(257)).save,
    "gray, big-endian.tiff": Image.fromarray((LEVELS * np.uint16(257)).astype(">u2")).save,
    "gray, 0 to 1.tiff": Image.fromarray(LEVELS / np.float32(255)).save,
    "gray, 0 to 255.tiff": Image.fromarray(LEVELS.astype(np.float32)).save,
    "gray, ink.png": Image.merge("LA", (BLACK, INK)).save,
}
WHOLE = io.BytesIO()
COLOR.save(WHOLE, "PNG")
BROKEN = {"missing": None, "empty": b"", "text": b"no picture", "truncated": WHOLE.getvalue()[:-99_999]}


@pytest.mark.parametrize("name", ENCODINGS)
def test_any_encoding_gives_the_centered_square_antialiased(name, tmp_path):
    ENCODINGS[name](str(tmp_path / name))
    square = PIXELS[:, 80:560, :1] if name.startswith("gray") else PIXELS[:, 80:560]
    means = square.reshape(32, 15, 32, 15, -1).mean((1, 3))
    image = load_image(tmp_path / name)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert np.abs(image - means).max() < 6


def test_a_picture_of_the_networks_size_stays_as_it_is(tmp_path):
    COLOR.crop((0, 0, 32, 32)).save(tmp_path / "small.png")
    assert (load_image(tmp_path / "small.png") == PIXELS[:32, :32]).all()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named_in_one_line(name, tmp_path):
    if BROKEN[name] is not None:
        (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises((OSError, ValueError), match=rf"^[^\n]*{name}'[^\n]*$"):
        load_image(tmp_path / name)


@pytest.fixture
def run(monkeypatch, tmp_path, model):
    """Run the script in a folder that holds only the model's weights, and return its exit status."""
    monkeypatch.chdir(tmp_path)
    save_weights(WEIGHTS, model)
    load_weights(WEIGHTS, model)  # rounded to float16

    def run(*files: str) -> int | str:
        monkeypatch.setattr(sys, "argv", ["explain", *files])
        with pytest.raises(SystemExit) as stopped:
            explain.main()
        return stopped.value.code

    return run


def test_explains_the_most_probable_class_of_every_picture_that_can_be_read(run, model, monkeypatch, capsys):
    explained = []

    def spy(model, images, classes):
        explained.append(int(classes[0]))
        return compute_cams(model, images, classes)

    monkeypatch.setattr(explain, "compute_cams", spy)
    files = "a.png", "a.jpg", "a-2.png"
    for name in files:
        COLOR.save(name)
    assert run("a.png", "broken.png", "a.jpg", "a-2.png") == 1
    out, err = capsys.readouterr()
    pixels = np.stack([load_image(name) for name in files])
    for name, line, p in zip(files, out.splitlines(), model(normalize(pixels)).softmax(1).tolist(), strict=True):
        best = sorted(range(10), key=lambda c: -p[c])[:3]
        assert line == f"{name}: " + ", ".join(f"{CLASSES[c]} {p[c]:.2f}" for c in best)
        assert explained.pop(0) == best[0]
    assert "broken.png" in err and err.count("\n") == 1
    assert {grid.name for grid in Path("runs/pictures").iterdir()} == {"a.png", "a-2.png", "a-2-2.png"}


def test_without_the_weights_it_says_so_in_a_line(run):
    WEIGHTS.unlink()
    message = run("any.png")
    assert str(WEIGHTS) in message and "\n" not in message
