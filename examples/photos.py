"""Write a table of Flickr8k's photographs with labels that people's captions give, for `wsram train photos.csv`.

Flickr8k (Hodosh, Young & Hockenmaier 2013) has five captions of each of 8,000 photographs and official parts for
training, validation and test. Two questions are made of them:

- `dog`: a photograph shows a dog if at least four of its captions name one (dog, puppy, ...), and none if no caption
  does; those in between are left out, and words that hint at one (hound, animal, leash, ...) keep it from being none.
- `scene`: one of snow, water, grass, street, sand and rock, if at least two captions name it and none names another.

    python examples/photos.py FLICKR8K dogs.csv dog
    wsram train dogs.csv --network efficientnet-lite0    # what came of it: docs/own-images.md
"""

import csv
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(re.findall(r"[a-z']+", text.lower()))


DOG = words("dog dogs dog's doggy pup puppy puppies puppy's")
HINTS = words(
    "animal animals hound hounds greyhound greyhounds retriever terrier poodle collie shepherd dalmatian spaniel mutt "
    "labrador lab pet pets leash leashed muzzle muzzled muzzles paw paws canine corgi dachshund bulldog"
)
SCENES = {
    "snow": words("snow snowy snowboard snowboarder snowboarding ski skier skiing skis sled"),
    "water": words("water ocean sea lake river pool waves wave surfer surfing swimming swims"),
    "grass": words("grass grassy lawn field meadow"),
    "street": words("street sidewalk city road crosswalk downtown"),
    "sand": words("sand sandy beach desert dunes"),
    "rock": words("rock rocks rocky cliff mountain mountains boulder climbing climber climbs"),
}
PARTS = {"train": "trainImages", "val": "devImages", "test": "testImages"}


def dog(captions: list[frozenset[str]]) -> str | None:
    """Whether a photograph with these captions, each the set of its words, shows a dog; None if that is in doubt."""
    named = sum(bool(caption & DOG) for caption in captions)
    if named >= 4:
        return "dog"
    return None if named or any(caption & HINTS for caption in captions) else "none"


def scene(captions: list[frozenset[str]]) -> str | None:
    """The scene that captions agree on, or None."""
    named = {name: sum(bool(caption & its) for caption in captions) for name, its in SCENES.items()}
    there = [name for name, count in named.items() if count]
    return there[0] if len(there) == 1 and named[there[0]] >= 2 else None


QUESTIONS = {"dog": dog, "scene": scene}


def main() -> None:
    """Write the table that the command line names, and say how many photographs it has."""
    if len(sys.argv) != 4 or sys.argv[3] not in QUESTIONS:
        sys.exit(f"usage: python examples/photos.py FLICKR8K TABLE.csv {'|'.join(QUESTIONS)}")
    root, table, question = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), QUESTIONS[sys.argv[3]]
    text, photos = root / "Flickr8k_text", root / "Flicker8k_Dataset"
    if not text.is_dir() or not photos.is_dir():
        sys.exit(f"expected Flickr8k_text and Flicker8k_Dataset in {root}; name the folder that holds them")
    captions: dict[str, list[frozenset[str]]] = defaultdict(list)
    for line in (text / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t", 1)
        captions[name.partition("#")[0]].append(words(caption))
    counts: Counter[tuple[str, str]] = Counter()
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for part, name in PARTS.items():
            for photo in (text / f"Flickr_8k.{name}.txt").read_text(encoding="utf-8").split():
                label = question(captions[photo])
                counts[part, label or "left out"] += 1
                if label is not None:
                    rows.writerow([str(photos / photo), label, part])
    for (part, label), count in sorted(counts.items()):
        print(f"{part}: {count:,} {label}")


if __name__ == "__main__":
    main()
