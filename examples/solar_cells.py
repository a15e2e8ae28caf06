r"""Write a table of real solar cells, good or defective, for `wsram train cells.csv`.

The photographs are those of the package elpv-dataset (`pip install elpv-dataset`; Buerhop-Lutz et al. 2018, Deitsch et
al. 2019), 2,624 cells of 300 by 300 pixels with a probability of defect of 0, 1/3, 2/3 or 1. A cell counts as defective
above 0.5, the usual rule. Their licence is CC BY-NC-SA 4.0: for research, not for sale; nothing of them is kept here.

The column split says what each cell is for. Of each class and kind of cell, the cells in a random order of a fixed seed
are dealt out to five folds; one of them is for test, half of the next one for validation, the rest for training.

    python examples/solar_cells.py cells.csv            # fold 0 is for test; `cells.csv 3` leaves fold 3 out
    python examples/solar_cells.py sure.csv 0 sure      # the same without the cells that experts doubted (1/3, 2/3)
    wsram train cells.csv --network efficientnet-lite0:7 --no-freeze --longest 150 --glimpses 3 --patch 60 --scales 1 \
        --policy map --view 28 --map-stride 4 --glimpse-growth 0 --every-glimpse 0.2 --scale-entropy 0 --dropout 0.3 \
        --flip both --rotate 5 --zoom 0.1 --shift 0.03 --batch 32 --updates 1425 --evaluate-every 114 \
        --learning-rate 3e-3 --weight-decay 0.05 --patience 0 --run runs/solar    # see docs/own-images.md
    python -m experiments glimpsed runs/solar cells.csv --test --no-probe
"""

import csv
import random
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDS = 5


def parts(groups: list[str], test: int) -> list[str]:
    """For each cell its part, given what it must be spread over evenly, and the fold that is for test."""
    order = list(range(len(groups)))
    random.Random(0).shuffle(order)
    order.sort(key=lambda n: groups[n])  # keeps the random order within a group
    said = [""] * len(groups)
    for dealt, n in enumerate(order):
        fold = (dealt - test) % FOLDS
        said[n] = "test" if fold == 0 else "val" if fold == 1 and dealt // FOLDS % 2 else "train"
    return said


def main() -> None:
    """Write the table that the command line names."""
    fold, sure = (*sys.argv[2:3], "0")[0], sys.argv[3:] == ["sure"]
    if len(sys.argv) not in (2, 3, 3 + sure) or fold not in map(str, range(FOLDS)):
        sys.exit("usage: python examples/solar_cells.py TABLE.csv [FOLD from 0 to 4 [sure]]")
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        sys.exit("the photographs are in the package elpv-dataset; pip install elpv-dataset")
    data = Path(spec.origin).parent / "data"
    cells = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines()]
    labels = ["defective" if float(probability) > 0.5 else "good" for _, probability, _ in cells]
    split = parts([f"{label} {kind}" for label, (_, _, kind) in zip(labels, cells, strict=True)], int(fold))
    with Path(sys.argv[1]).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for (name, probability, _), label, part in zip(cells, labels, split, strict=True):
            if not sure or float(probability) in (0, 1):
                table.writerow([str(data / name), label, part])


if __name__ == "__main__":
    main()
