"""Data sets of the Hugging Face library train as folders do, and nothing is fetched unasked."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.refusals import refusal
from tests.tiny import rows
from wsram.cli import main
from wsram.data import open_data
from wsram.image_settings import ImageData, is_hub

datasets = pytest.importorskip("datasets", reason="tables need the datasets extra")
COUNT = 40


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((20, 30), level, np.uint8))


def table(count: int = COUNT, first: int = 0, **more: Any) -> Any:
    """Rows of grey images, dark or light by turns."""
    content: dict[str, Any] = {
        "image": [picture(100 * (n % 2) + first + n) for n in range(count)],
        "label": [n % 2 for n in range(count)],
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])}
    for name, (values, feature) in more.items():
        content[name], features[name] = values, feature
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {"train": table(), "test": table(6, first=COUNT), "extra": table(2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_data_set_is_read_by_its_splits_and_class_labels(saved: Path) -> None:
    splits = open_data(ImageData(str(saved)))
    assert splits.train.spec.names == ("dark", "light") and splits.train.spec.channels == 1
    assert len(splits.train) + len(splits.validation) == COUNT and len(splits.open_test()) == 6
    assert any("left out: extra" in note for note in splits.notes)
    batch = splits.open_test().batch(torch.arange(6))
    assert isinstance(batch.images, torch.Tensor)
    levels = (batch.images[:, 0, 0, 0] * 255).round().int().tolist()
    assert levels == [100 * (n % 2) + COUNT + n for n in range(6)] and batch.answers.tolist() == [0, 1] * 3


def test_one_table_is_shared_out_and_copies_stay_together(tmp_path: Path) -> None:
    datasets.concatenate_datasets([table(), table()]).save_to_disk(tmp_path / "one")
    splits = open_data(ImageData(str(tmp_path / "one")))
    assert len(splits.train) + len(splits.validation) + len(splits.open_test()) == 2 * COUNT
    assert min(len(splits.validation), len(splits.open_test())) > 1
    assert any(f"{COUNT} image(s) are there more than once" in note for note in splits.notes)


def test_training_takes_a_saved_data_set_by_its_folder(saved: Path, tmp_path: Path) -> None:
    sizes = "--updates 2 --evaluate-every 2 --batch 8 --glimpses 2 --patch 8 --widths 4 --lower-units 8 --upper-units 8"
    main(["train", str(saved), "--run", str(tmp_path / "run"), "--scales", "1", "--view", "8", *sizes.split()])
    assert rows(tmp_path / "run")[-1]["step"] == 2


@pytest.mark.parametrize(
    ("feature", "values", "answer", "names"),
    [
        ("several", [[n % 2, 2] for n in range(COUNT)], "labels", ("a", "b", "c")),
        ("number", [0.5 * n for n in range(COUNT)], "number", ("value",)),
        ("name", ["yes" if n % 2 else "no" for n in range(COUNT)], "class", ("no", "yes")),
    ],
)
def test_labels_may_be_several_a_number_or_a_name(
    tmp_path: Path, feature: str, values: list[Any], answer: str, names: tuple[str, ...]
) -> None:
    kinds = {
        "several": datasets.List(datasets.ClassLabel(names=["a", "b", "c"])),
        "number": datasets.Value("float32"),
        "name": datasets.Value("string"),
    }
    table(labels=(values, kinds[feature])).remove_columns("label").save_to_disk(tmp_path / "kept")
    spec = open_data(ImageData(str(tmp_path / "kept"))).train.spec
    assert (spec.answer, spec.names) == (answer, names)


def test_columns_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    kind = datasets.ClassLabel(names=["x", "y"])
    rows = table(coarse=([0] * COUNT, kind), fine=([1] * COUNT, kind)).remove_columns("label")
    rows.save_to_disk(tmp_path / "two")
    refusal(lambda: open_data(ImageData(str(tmp_path / "two"))), "one column of labels", "coarse, fine")
    rows.remove_columns("image").save_to_disk(tmp_path / "none")
    refusal(lambda: open_data(ImageData(str(tmp_path / "none"))), "one column of images", "none")


def test_a_row_without_a_label_is_named(tmp_path: Path) -> None:
    rows = datasets.concatenate_datasets([table(3), table(1).map(lambda row: {"label": -1})])
    rows.save_to_disk(tmp_path / "unlabelled")
    refusal(lambda: open_data(ImageData(str(tmp_path / "unlabelled"))), "row 3", "dark, light")


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    broken = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    content = io.BytesIO()
    picture(7).save(content, "PNG")
    images = [{"bytes": content.getvalue() + bytes([n]), "path": None} for n in range(COUNT)]
    images[3], images[5] = {"bytes": b"no image", "path": None}, None
    kept = datasets.Dataset.from_dict({"image": images, "label": ["ab"[n % 2] for n in range(COUNT)]}, features=broken)
    kept.save_to_disk(tmp_path / "broken")
    splits = open_data(ImageData(str(tmp_path / "broken")))
    assert any("2 image(s) cannot be read" in note and "row 3" in note for note in splits.notes)


def test_nothing_is_fetched_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetched(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        return datasets.DatasetDict(train=table())

    monkeypatch.setattr(datasets, "load_dataset", fetched)
    refusal(lambda: open_data(ImageData("hf:nobody/nothing")), "nobody/nothing", "--download")
    assert not asked
    assert len(open_data(ImageData("hf:nobody/nothing:small", download=True)).train) > 1
    assert asked == [("nobody/nothing", "small")]


def test_what_was_fetched_once_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pets(datasets.GeneratorBasedBuilder):
        """What the library makes of files that it has fetched."""

        def _info(self) -> Any:
            return datasets.DatasetInfo(features=table(2).features)

        def _split_generators(self, fetched: Any) -> Any:
            return [datasets.SplitGenerator("train")]

        def _generate_examples(self) -> Any:
            yield from enumerate(table())

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Pets(dataset_name="pets", repo_id="someone/pets", hash="0").download_and_prepare()
    assert open_data(ImageData("hf:someone/pets")).train.spec.names == ("dark", "light")


def test_without_the_library_it_is_said_how_to_have_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def absent(name: str, *args: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return there(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    refusal(lambda: open_data(ImageData(str(saved))), "wsram[datasets]")


def test_a_folder_of_photographs_is_no_saved_data_set(tmp_path: Path) -> None:
    assert not is_hub(str(tmp_path)) and not is_hub("mnist") and is_hub("hf:a/b")
