"""Image data sets of the Hugging Face Hub, by name or from a folder that `datasets` saved; the extra hf."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsram.config import ImageData
from wsram.data.dataset import Batch, Spec, Splits
from wsram.data.images import read_image
from wsram.errors import UserError

HELD_OUT = 0.15
"""Share of the training images that serve for validation, where the data set has no such part."""


@dataclass(frozen=True)
class HubImages:
    """A part of a data set of the Hub; see `wsram.data.dataset.Dataset`.

    rows: the part, whose column of images is not decoded by `datasets`.
    image, label: names of the columns.
    described, title: what the images are.
    device: where batches are made.
    """

    rows: Any
    image: str
    label: str
    described: Spec
    title: str
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable

    @property
    def spec(self) -> Spec:
        """What they are."""
        return self.described

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.rows)

    def batch(self, index: Tensor, epoch: int | None = None) -> Batch:
        """Images in [0, 1], one tensor if all have one size and else a list, and classes (batch,) int64."""
        rows = self.rows[index.tolist()]
        read = [_unpacked(row, self.described) for row in rows[self.image]]
        images = [image.to(self.device).float() / 255 for image in read]
        same = len({image.shape for image in images}) == 1
        return Batch(torch.stack(images) if same else images, torch.tensor(rows[self.label]).to(self.device))

    def to(self, device: torch.device) -> HubImages:
        """The same with batches on another device."""
        return replace(self, device=device)

    def fingerprint(self) -> str:
        """Of what `datasets` says the rows were made of."""
        return hashlib.sha256(f"{self.rows._fingerprint} {len(self.rows)}".encode()).hexdigest()[:16]


def open_hub(data: ImageData) -> Splits:
    """The data set after "hf:" in the source: a name on the Hub or a folder; `UserError` if it cannot be had."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f'{data.source} needs the package datasets; pip install "wsram[hf]"') from error
    name = data.source.removeprefix("hf:")
    try:
        here = Path(name).expanduser()
        found = datasets.load_from_disk(str(here)) if here.is_dir() else datasets.load_dataset(name)
    except Exception as error:  # whatever the network, the Hub or a script of the data set raises
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"could not open {data.source} ({type(error).__name__}: {reason}); name another") from error
    if not isinstance(found, datasets.DatasetDict):
        found = datasets.DatasetDict(train=found)
    features = found["train"].features if "train" in found else {}
    image = next((column for column, kind in features.items() if isinstance(kind, datasets.Image)), None)
    label = next((column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise UserError(
            f"expected a part train with columns of images and of class labels in {data.source}, found "
            f"{', '.join(features) or 'none'}; name another data set"
        )
    parts = {part: rows.cast_column(image, datasets.Image(decode=False)) for part, rows in found.items()}
    validation = next((parts[part] for part in ("validation", "val", "dev") if part in parts), None)
    train = parts["train"]
    if validation is None:
        both = train.train_test_split(test_size=HELD_OUT, seed=2015)
        train, validation = both["train"], both["test"]
    spec = Spec(1 if data.colour is False else 3, "class", tuple(features[label].names), None, longest=data.longest)

    def part(rows: Any, title: str) -> HubImages:
        return HubImages(rows, image, label, spec, title)

    def test() -> HubImages:
        if "test" not in parts:
            raise UserError(f"{data.source} has no part test; measure on its validation images")
        return part(parts["test"], "test images")

    return Splits(part(train, "training images"), part(validation, "validation images"), test)


def _unpacked(row: dict[str, Any], spec: Spec) -> Tensor:
    file = io.BytesIO(row["bytes"]) if row.get("bytes") is not None else Path(row["path"])
    return read_image(file, spec.channels, spec.longest)
