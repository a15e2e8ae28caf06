"""Write a table of real solar cells, good or defective, for `wsram train cells.csv`.

The photographs are those of the package elpv-dataset (`pip install elpv-dataset`; Buerhop-Lutz et al. 2018, Deitsch et
al. 2019), 2,624 cells of 300 by 300 pixels with a probability of defect of 0, 1/3, 2/3 or 1. A cell counts as defective
above 0.5, the usual rule. Their licence is CC BY-NC-SA 4.0: for research, not for sale; nothing of them is kept here.

    python examples/solar_cells.py cells.csv
    wsram train cells.csv
"""

import csv
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Write the table that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/solar_cells.py TABLE.csv")
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        sys.exit("the photographs are in the package elpv-dataset; pip install elpv-dataset")
    data = Path(spec.origin).parent / "data"
    with Path(sys.argv[1]).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines():
            name, probability, _kind = line.split()
            table.writerow([str(data / name), "defective" if float(probability) > 0.5 else "good"])


if __name__ == "__main__":
    main()
