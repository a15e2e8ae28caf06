"""Data: examples by number, from whatever a person names: digits, folders, captioned images."""

from __future__ import annotations

from wsram.config import CaptionData
from wsram.data.dataset import Batch, Dataset, Spec, Splits
from wsram.data.listing import is_folder
from wsram.data.mnist import is_digits
from wsram.errors import UserError
from wsram.image_settings import FILES, MEGAPIXEL, MOSAICS, ONE_DIGIT, ImageData, is_hub, require_meant

__all__ = ["Batch", "Dataset", "Spec", "Splits", "open_data"]


def open_data(data: ImageData | CaptionData, seed: int = 0) -> Splits:
    """The data set that these settings name.

    Args:
        data: the settings.
        seed: of what is made of the training examples.

    Raises:
        UserError: there is nothing of that name, it cannot be read, or a setting says nothing about such images.
    """
    if isinstance(data, CaptionData):
        from wsram.data.captioned import open_captions

        return open_captions(data)
    if data.scene == "mosaic":
        from wsram.data.mosaic import open_mosaics

        require_meant(data, MOSAICS)
        return open_mosaics(data, seed)
    if is_digits(data.source) and (data.scene or "").startswith("megapixel"):
        from wsram.data.megapixel import open_megapixel

        require_meant(data, MEGAPIXEL)
        return open_megapixel(data, seed)
    if is_digits(data.source):
        from wsram.data.digits import open_digits

        require_meant(data, ONE_DIGIT)
        return open_digits(data, seed)
    if is_folder(data.source) or is_hub(data.source):
        from wsram.data.folder import open_folder

        require_meant(data, FILES)
        return open_folder(data)
    raise UserError(
        f"expected a folder of images, a table (.csv, .jsonl), a data set of the Hub (hf:OWNER/NAME), mnist5k, "
        f"mnist or a folder of MNIST's IDX files, found nothing at {data.source!r}; name one that is there"
    )
