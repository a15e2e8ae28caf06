"""Image files of every kind become upright bytes; what cannot is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.refusals import refusal
from wsram.data import images
from wsram.data.images import read_image, read_square, size_of


def test_an_image_is_squashed_to_a_square_of_three_colours(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 10), (200, 100, 50))
    wide.paste((0, 0, 0), (20, 0, 40, 10))
    wide.save(tmp_path / "wide.png")
    image = read_square(tmp_path / "wide.png", 8)
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.uint8
    assert image[:, 4, 0].tolist() == [200, 100, 50]
    assert image[:, 4, 7].tolist() == [0, 0, 0]


MODES = {
    "grey": (Image.new("L", (5, 5), 80), [80, 80, 80]),
    "one bit": (Image.new("1", (5, 5), 1), [255, 255, 255]),
    "16 bits of grey": (Image.fromarray(np.full((5, 5), 80 * 257, dtype=np.uint16)), [80, 80, 80]),
    "palette": (Image.new("RGB", (5, 5), (255, 0, 0)).convert("P"), [255, 0, 0]),
    "transparent": (Image.new("RGBA", (5, 5), (9, 9, 9, 0)), [255, 255, 255]),
    "half transparent": (Image.new("RGBA", (5, 5), (0, 0, 0, 128)), [127, 127, 127]),
    "grey and transparent": (Image.new("LA", (5, 5), (9, 0)), [255, 255, 255]),
}


@pytest.mark.parametrize("kind", MODES)
def test_other_kinds_of_image_become_colours(kind: str, tmp_path: Path) -> None:
    image, colour = MODES[kind]
    image.save(tmp_path / "image.png")
    assert read_square(tmp_path / "image.png", 3)[:, 1, 1].tolist() == colour


def test_printers_colours_become_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "image.jpg")
    red, green, blue = read_square(tmp_path / "image.jpg", 3)[:, 1, 1].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_a_cameras_note_of_orientation_is_heeded(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "white")
    image.paste((0, 0, 0), (0, 0, 8, 4))
    note = Image.Exif()
    note[0x0112] = 6  # to be turned clockwise by a quarter: its top is then at the right
    image.save(tmp_path / "image.png", exif=note)
    read = read_square(tmp_path / "image.png", 8)
    assert (read[:, :, :4] == 255).all()
    assert (read[:, :, 4:] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tif", "png", "jpg"])
def test_the_size_before_and_after_unpacking_is_the_upright_one(kind: str, orientation: int, tmp_path: Path) -> None:
    path, note = tmp_path / f"image.{kind}", Image.Exif()
    note[0x0112] = orientation
    upright = Image.new("RGB", (30, 12))
    turned = upright.transpose(Image.Transpose.ROTATE_90) if orientation > 4 else upright
    turned.save(path, exif=note)
    with Image.open(path) as image:
        assert read_image(path).shape[1:] == size_of(path)[:2] == size_of(image)[:2] == (12, 30)
        assert read_image(image).shape[1:] == size_of(image)[:2] == (12, 30)


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.jpg")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    for kind in ("jpg", "png"):
        content = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "cut.png", "text.jpg", "empty.jpg", "folder.jpg", "absent.jpg"):
        refusal(lambda name=name: read_square(tmp_path / name, 8), tmp_path / name, "whole image", "leave it out")


def test_an_image_too_large_to_be_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (60, 60)).save(tmp_path / "large.png")
    monkeypatch.setattr(images, "LARGEST", 3599)
    refusal(lambda: read_square(tmp_path / "large.png", 8), tmp_path / "large.png", "60×60 pixels", "3,599")
    monkeypatch.setattr(images, "LARGEST", 3600)
    assert read_square(tmp_path / "large.png", 8).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO"])
def test_what_is_no_photograph_is_not_opened_whatever_it_is_called(kind: str, tmp_path: Path) -> None:
    """The first of these would start another program."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "image.jpg", kind)
    refusal(lambda: read_square(tmp_path / "image.jpg", 8), tmp_path / "image.jpg", "whole image")


def test_a_note_of_orientation_that_cannot_be_read_loses_no_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "image.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert read_square(tmp_path / "image.png", 4)[:, 2, 2].tolist() == [200, 100, 50]
