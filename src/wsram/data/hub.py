"""Data sets of the Hugging Face library: of the Hub by name, or a folder that it saved; images stay where they are.

An image is unpacked when it is looked at; the library reads the rows from the disk, so that memory holds none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wsram.data.images import Stored
from wsram.data.listing import PARTS, Item, answer_of
from wsram.errors import UserError, reason_of
from wsram.image_settings import HUB


def read_hub(source: str, *, download: bool = False) -> tuple[list[Item], list[str]]:
    """Images by their rows: the column of images, and that of labels; and what else was found there.

    Labels are the column of class labels, one or several to a row, or else the one called label or labels. Splits are
    the parts; one alone is shared out as a folder without parts is.

    Args:
        source: hf:OWNER/NAME, with :CONFIGURATION where there are several, or a folder that `save_to_disk` has written.
        download: fetch a data set of the Hub into the library's cache if it is not there.

    Raises:
        UserError: there is none, it is not in the cache, it has no such columns, or what reads it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f'{source} is a data set of the Hugging Face library; install what reads it: pip install "wsram[datasets]"'
        ) from error
    datasets.disable_progress_bars()  # of what is read from the disk
    try:
        found = _from_hub(source, download) if source.startswith(HUB) else datasets.load_from_disk(source)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its builders and the Hub's client do
        raise UserError(f"cannot open {source} ({reason_of(error)}); name another data set") from error
    tables: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {"": found}
    by_part = {name: part for name in tables for part, names in PARTS.items() if name.lower() in names}
    notes = []
    if len(tables) == 1:
        by_part = {}
    elif strange := [name for name in tables if name not in by_part]:
        notes.append(f"split(s) that are neither train, val nor test are left out: {', '.join(strange)}")
        tables = {name: table for name, table in tables.items() if name in by_part}
    items = [item for name, table in tables.items() for item in _items(source, name, table, by_part.get(name))]
    if not items:
        raise UserError(f"expected rows in {source}, with splits called train, val or test; found none")
    return items, notes


def _from_hub(source: str, download: bool) -> Any:
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    name, _, chosen = source.removeprefix(HUB).partition(":")
    if download:
        return datasets.load_dataset(name, chosen or None)
    try:
        # What the library itself falls back to without a network; the Hub is not asked.
        called, version = name.rpartition("/")[-1], {"version": "auto", "hash": "auto"}
        kept: Any = Cache(repo_id=name, dataset_name=called, config_name=chosen or None, **version)
    except ValueError as error:
        raise UserError(
            f"{name} is not in the cache of the Hugging Face library ({reason_of(error)}); fetch it with --download"
        ) from error
    return kept.as_dataset()


def _items(source: str, split: str, table: Any, part: str | None) -> list[Item]:
    import datasets

    where = f"{source}, {split}" if split else source
    features: Mapping[str, Any] = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = _column(where, "images", images, ("image",))
    labels = [name for name, feature in features.items() if isinstance(_inner(feature), datasets.ClassLabel)]
    label = _column(where, "labels", labels, ("label", "labels"), [name for name in features if name != image])
    stored = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    names = getattr(_inner(features[label]), "names", None)
    return [
        Item(Stored(f"{where}: row {n}", partial(_content, stored, image, n)), _named(answer, names, where, n), part)
        for n, answer in enumerate(table.select_columns([label])[label])
    ]


def _inner(feature: Any) -> Any:
    """What a list is of; anything else as it is."""
    return getattr(feature, "feature", feature)


def _column(where: str, what: str, kind: Sequence[str], usual: Sequence[str], all_of: Sequence[str] = ()) -> str:
    """The only column of a kind, or else the one that is called as usual."""
    if len(kind) == 1:
        return kind[0]
    for name in usual:
        if name in (kind or all_of):
            return name
    raise UserError(
        f"{where}: expected one column of {what}, or one called {' or '.join(usual)}, got "
        f"{', '.join(kind or all_of) or 'none'}; rename or remove some and save it to a folder (save_to_disk)"
    )


def _named(answer: Any, names: Sequence[str] | None, where: str, number: int) -> str | tuple[str, ...] | float:
    place = f"{where}: row {number}"
    several = isinstance(answer, Sequence) and not isinstance(answer, str)
    if names is None or isinstance(answer, str):
        return answer_of(list(answer) if several else answer, place)
    numbers = answer if several else [answer]
    if any(n is None or not 0 <= n < len(names) for n in numbers):
        raise UserError(f"{place}: expected a label, one of {', '.join(names[:20])}, got none; leave such rows out")
    return tuple(names[n] for n in numbers) if several else names[answer]


def _content(table: Any, column: str, number: int) -> bytes:
    kept = table[number][column]
    if kept is None:
        raise UserError(f"row {number} holds no image; leave it out")
    return Path(kept["path"]).read_bytes() if kept["bytes"] is None else kept["bytes"]
