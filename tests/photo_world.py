"""Captioned photos small enough for a test: one colour for each scene, so that a view tells which photo decides."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from wsram.image_settings import ImageData

COLOURS = {"snow": "white", "beach": "yellow", "pool": "cyan", "rock": "gray", "street": "black"}


def write_photos(root: Path) -> Path:
    """A folder in Flickr8k's layout: of each split two photos of each scene, ten bystanders, and an ambiguous one."""
    (root / "Flicker8k_Dataset").mkdir()
    (root / "Flickr8k_text").mkdir()
    lines = []
    for split in ("train", "dev", "test"):
        names = []
        for scene, colour in COLOURS.items():
            for n in range(10 if scene == "street" else 2):
                names.append(f"{split}-{scene}-{n}.png")
                Image.new("RGB", (30, 20), colour).save(root / "Flicker8k_Dataset" / names[-1])
                lines += [f"{names[-1]}#{k}\tA dog on a {scene} ." for k in range(5)]
        names.append(f"{split}-torn.png")
        Image.new("RGB", (30, 20), "red").save(root / "Flicker8k_Dataset" / names[-1])
        lines += [f"{names[-1]}#{k}\tA dog {where} ." for k, where in enumerate(("in snow", "on a street"))]
        (root / "Flickr8k_text" / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
    (root / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return root


def settings(world: Path, **changes: object) -> ImageData:
    """Mosaics of three by three of them: 12 in an epoch, 6 for validation."""
    given: dict[str, object] = {"photos": 3, "training_images": 12, "validation": 6} | changes
    return ImageData(str(world), scene="mosaic", **given)  # type: ignore[arg-type]
