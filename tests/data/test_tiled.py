"""Images in tiles show what they show in memory, read no more than is looked at, and say what is wrong with them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.networks import classifier
from tests.refusals import refusal
from wsram.data.given import given
from wsram.data.images import as_tensor, read_image
from wsram.data.tiled import open_tiles, shrunk, tiled_array
from wsram.errors import UserError
from wsram.glimpse.sensor import MODES, Sensor
from wsram.glimpse.source import Held, in_unit
from wsram.glimpse.tiles import TileCache, Tiled
from wsram.predictor import Predictor

tifffile = pytest.importorskip("tifffile", reason="tiles need the tiles extra")
zarr = pytest.importorskip("zarr", reason="tiles need the tiles extra")


def noise(height: int = 150, width: int = 211, samples: int = 0, seed: int = 0) -> np.ndarray:
    shape = (height, width, samples) if samples else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def averages(array: np.ndarray, f: int) -> np.ndarray:
    height, width = (length // f * f for length in array.shape[:2])
    cells = array[:height, :width].reshape(height // f, f, width // f, f, *array.shape[2:])
    return np.rint(cells.mean((1, 3))).astype(array.dtype)


def write_pyramid(path: Path, array: np.ndarray, factors: tuple[int, ...] = (2, 4), **how: Any) -> Path:
    how = {"tile": (32, 48), "compression": "deflate", "photometric": "rgb" if array.ndim == 3 else "minisblack"} | how
    with tifffile.TiffWriter(path) as file:
        file.write(array, subifds=len(factors), **how)
        for f in factors:
            file.write(averages(array, f), subfiletype=1, **how)
    return path


def write_zarr(path: Path, array: np.ndarray) -> Path:
    group = zarr.open_group(path, mode="w")
    for n, f in enumerate((1, 2)):
        level = averages(array, f)
        group.create_array(f"level{n}", shape=level.shape, chunks=(40, 36, *level.shape[2:]), dtype="uint8")[:] = level
    return path


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "tiff": lambda folder, array: write_pyramid(folder / "a.tif", array),
    "tiff without compression": lambda folder, array: write_pyramid(folder / "a.tiff", array, compression=None),
    "big tiff": lambda folder, array: (
        tifffile.imwrite(folder / "a.btf", array, bigtiff=True, tile=(64, 64)) or folder / "a.btf"
    ),
    "zarr": lambda folder, array: write_zarr(folder / "a.zarr", array),
    "npy": lambda folder, array: write_npy(folder / "a.npy", array),
}


def opened(path: Path, channels: int = 1) -> Tiled:
    tiles = open_tiles(path, channels)
    assert tiles is not None
    return tiles


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("writer", WRITERS)
def test_glimpses_are_those_of_the_image_in_memory_bit_for_bit(tmp_path: Path, writer: str, mode: str) -> None:
    array = noise()
    tiles = opened(WRITERS[writer](tmp_path, array))
    sensor = Sensor(7, (1, 3, 16), mode)
    location, scale = torch.rand(60, 1, 2) * 2.6 - 1.3, torch.randint(3, (60, 1))
    location[:4, 0] = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    held = sensor.pyramid(in_unit(torch.from_numpy(array)).view(1, 1, *array.shape))
    found = sensor.pyramid([tiles], 4)
    assert torch.equal(sensor(found, location, scale), sensor(held, location, scale))
    torch.testing.assert_close(found.view(12), held.view(12), rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [0, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_become_what_the_network_wants_as_in_an_image_read_whole(
    tmp_path: Path, samples: int, channels: int
) -> None:
    array = noise(samples=samples)
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    path = write_pyramid(tmp_path / "a.tif", array, (), **extra)
    tiles = opened(path, channels)
    assert torch.equal(tiles.read(0, 0, *array.shape[:2]), read_image(path, channels))


def test_samples_that_lie_apart_and_white_that_is_zero_are_read(tmp_path: Path) -> None:
    array = noise(samples=3)
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    tifffile.imwrite(tmp_path / "a.tif", planes, tile=(64, 64), photometric="rgb", planarconfig="separate")
    assert torch.equal(opened(tmp_path / "a.tif", 3).read(0, 0, 150, 211), torch.from_numpy(planes))
    tifffile.imwrite(tmp_path / "b.tif", array[..., 0], tile=(64, 64), photometric="miniswhite")
    assert torch.equal(opened(tmp_path / "b.tif").read(0, 0, 150, 211)[0], 255 - torch.from_numpy(array[..., 0]))
    bits = array[..., 0] > 99
    tifffile.imwrite(tmp_path / "c.tif", bits, tile=(64, 64), photometric="miniswhite")
    assert torch.equal(opened(tmp_path / "c.tif").read(0, 0, 150, 211)[0] == 0, torch.from_numpy(bits))


@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fourth_sample_is_what_the_file_says_it_is(tmp_path: Path, kind: str, channels: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(samples=4), tile=(64, 64), photometric="rgb", extrasamples=[kind])
    assert torch.equal(opened(path, channels).read(0, 0, 150, 211), read_image(path, channels))


@pytest.mark.parametrize("contrast", [False, True])
def test_predictions_are_those_of_the_array(tmp_path: Path, contrast: bool) -> None:
    array = noise(60, 50)
    predictor = Predictor(classifier(contrast=contrast))
    expected = predictor.predict(array)
    write_pyramid(tmp_path / "a.tif", array)
    write_npy(tmp_path / "a.npy", array)
    for image in (tmp_path / "a.tif", tmp_path / "a.npy", np.load(tmp_path / "a.npy", mmap_mode="r")):
        found = predictor.predict(image)
        torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=0, atol=1e-4)
        assert found.glimpses[-1].left == pytest.approx(expected.glimpses[-1].left, abs=2e-2)
    many = predictor.predict([array, tmp_path / "a.tif"])
    torch.testing.assert_close(many[0].probabilities, many[1].probabilities, rtol=0, atol=1e-4)
    assert many[1].draw() is not None


@pytest.mark.parametrize("longest", [20, 60, 150])
def test_a_network_of_small_images_sees_a_large_one_shrunk_as_if_it_were_read_whole(
    tmp_path: Path, longest: int
) -> None:
    array = noise(333, 211)
    path = write_pyramid(tmp_path / "a.tif", array, ())
    found, expected = given(path, 1, longest), read_image(path, 1, longest)
    assert found.pixels.shape == expected.shape and (found.height, found.width) == (333, 211)
    apart = (found.pixels.int() - expected.int()).abs()
    assert apart.max() <= 1 and apart.float().mean() < 0.01


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of thousands of pixels are passed over by a smaller copy, as others are of millions."""
    monkeypatch.setattr("wsram.glimpse.tiles.WHOLE", 10_000)
    monkeypatch.setattr("wsram.glimpse.tiles.LEAST", 30)


def test_a_view_reads_the_files_own_averages_where_that_is_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    array = noise(160, 240)
    tiles = opened(write_pyramid(tmp_path / "a.tif", array))
    assert tiles.overview().height == 80
    exact = Held(torch.from_numpy(array)[None]).view(20)
    torch.testing.assert_close(tiles.view(20), exact, rtol=0, atol=0.51 / 255)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:  # every other pixel is no average
        file.write(array, subifds=1, tile=(32, 32))
        file.write(np.ascontiguousarray(array[::2, ::2]), subfiletype=1, tile=(32, 32))
    assert opened(tmp_path / "b.tif").overview().height == 160
    torch.testing.assert_close(opened(tmp_path / "b.tif").view(20), exact, rtol=0, atol=1e-6)


def test_a_window_reads_the_tiles_it_touches_alone_and_each_once(tmp_path: Path) -> None:
    tiles = opened(write_pyramid(tmp_path / "a.tif", noise(), ()))
    seen: list[tuple[int, int]] = []
    level = tiles.levels[0]

    def load(row: int, column: int) -> np.ndarray:
        seen.append((row, column))
        return level.load(row, column)

    tiles = replace(tiles, levels=(replace(level, load=load),), cache=TileCache(1 << 20))
    threads = [threading.Thread(target=tiles.read, args=(31, 40, 2, 20)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_cache_holds_no_more_than_it_may_and_forgets_what_is_oldest() -> None:
    cache, read = TileCache(250), []

    def get(name: str) -> None:
        cache.get(name, lambda: read.append(name) or np.zeros(100, np.uint8))

    for name in "abacab":
        get(name)
    assert read == ["a", "b", "c", "b"] and cache.used == 200
    with pytest.raises(OSError, match="broken"):
        cache.get("d", lambda: (_ for _ in ()).throw(OSError("broken")))
    cache.get("d", lambda: np.zeros(10, np.uint8))
    assert cache.used == 210


def test_a_truncated_tile_is_named_after_a_second_try_and_others_are_read(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(), ())
    with tifffile.TiffFile(path) as file:
        last = int(file.pages[0].dataoffsets[-1])
        first_is_tags = file.pages[0].offset < last
    assert first_is_tags
    os.truncate(path, last + 7)
    tiles = opened(path)
    assert tiles.read(0, 0, 10, 10).shape == (1, 10, 10)
    told = refusal(lambda: tiles.read(149, 210, 1, 1))
    assert "row 4, column 4" in told and "truncated" in told and str(path) in told


def test_a_tile_that_fails_once_is_read_the_second_time() -> None:
    tiles, tried = tiled_array(noise(), 1, "the array"), []
    level = tiles.levels[0]

    def load(row: int, column: int) -> np.ndarray:
        tried.append(row)
        if len(tried) == 1:
            raise OSError("the net is down")
        return level.load(row, column)

    assert replace(tiles, levels=(replace(level, load=load),)).read(0, 0, 9, 9).shape == (1, 9, 9)
    assert len(tried) == 2


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "a.npy", noise())
    tiles = opened(path)
    tiles.read(0, 0, 9, 9)
    os.utime(path, ns=(1, 1))
    assert "was changed while it was read" in refusal(lambda: replace(tiles, cache=TileCache(0)).read(0, 0, 9, 9))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: np.save(path, np.zeros((4, 5, 6, 7), np.uint8)), "expected an image"),
        (lambda path: np.save(path, np.zeros((40, 50), np.int64)), "values of type int64"),
        (lambda path: np.save(path, np.full((40, 50), 2.0)), "values from 2 to 2"),
        (lambda path: (np.save(path, noise()), os.truncate(path, 999)), "expected a whole array"),
        (lambda path: path.write_bytes(b"no array"), "expected a whole array"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, made: Callable[[Path], Any], said: str) -> None:
    made(tmp_path / "a.npy")
    assert said in refusal(lambda: opened(tmp_path / "a.npy").read(0, 0, 9, 9))


def test_what_a_tiff_file_lacks_is_said(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].subifds[1]
    os.truncate(path, offset)
    assert "expected 3 levels" in refusal(lambda: opened(path))
    path = write_pyramid(tmp_path / "b.tif", noise())
    with tifffile.TiffFile(path) as file:
        where = file.pages[0].tags["Compression"].valueoffset
    with path.open("r+b") as raw:
        raw.seek(where)
        raw.write((5).to_bytes(2, "little"))
    if not hasattr(tifffile, "imagecodecs"):
        assert "compressed as" in refusal(lambda: opened(path))
    tifffile.imwrite(tmp_path / "c.tif", noise(samples=3), tile=(64, 64), photometric="ycbcr")
    assert "not read in tiles (6)" in refusal(lambda: opened(tmp_path / "c.tif"))


def test_a_small_or_whole_tiff_file_is_left_to_the_reader_of_images(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.tif")
    assert open_tiles(tmp_path / "a.tif", 1) is None and open_tiles(tmp_path, 1) is None
    assert torch.equal(given(tmp_path / "a.tif", 1).pixels, as_tensor(Image.fromarray(noise())))


def test_what_is_given_of_an_image_in_tiles_is_a_small_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsram.data.given.PICTURE", 50)
    found = given(write_npy(tmp_path / "a.npy", noise()), 1)
    assert found.pixels.shape == (1, 36, 50) and found.size == (150, 211) and found.ratio == (1.0, 1.0)
    assert torch.equal(shrunk(found.source, 50), found.pixels)


def test_values_of_sixteen_bits_and_floating_point_are_read(tmp_path: Path) -> None:
    wide = noise().astype(np.uint16) * 257
    tiles = opened(write_npy(tmp_path / "a.npy", wide))
    assert torch.equal(tiles.read(0, 0, 150, 211)[0], torch.from_numpy(noise()))
    floats = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)
    colour = opened(write_npy(tmp_path / "b.npy", floats), 3)
    assert torch.equal(colour.read(0, 0, 40, 50), torch.from_numpy(np.moveaxis(floats, -1, 0)))
    with pytest.raises(UserError, match="still there"):
        opened(tmp_path / "none.npy")
