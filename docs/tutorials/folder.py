# %% [markdown]
# # A folder of your own
#
# For engineers: train on a folder of images, then ask about others from a program. The images are drawn here so that the
# tutorial runs anywhere; put your own folder in their place, one sub-folder for each class.

# %%
import random
from pathlib import Path

from PIL import Image, ImageDraw


def draw(shape: str, number: int) -> Image.Image:
    """A disc, a square or a cross at a random place, in a random colour."""
    rng = random.Random(f"{shape} {number}")
    image = Image.new("RGB", (120, 80), (rng.randrange(20), rng.randrange(20), rng.randrange(20)))
    pen, side = ImageDraw.Draw(image), rng.randrange(20, 34)
    x, y = rng.randrange(120 - side), rng.randrange(80 - side)
    colour = tuple(rng.randrange(120, 256) for _ in range(3))
    if shape == "disc":
        pen.ellipse((x, y, x + side, y + side), fill=colour)
    elif shape == "square":
        pen.rectangle((x, y, x + side, y + side), fill=colour)
    else:
        pen.line((x, y, x + side, y + side), fill=colour, width=6)
        pen.line((x + side, y, x, y + side), fill=colour, width=6)
    return image


for shape in ("cross", "disc", "square"):
    Path("shapes", shape).mkdir(parents=True)
    for number in range(40):
        draw(shape, number).save(Path("shapes", shape, f"{number:02}.png"))

# %% [markdown]
# ## Train
#
# On a terminal one types the same words after `wsram`. The recipe `folder` is taken, since the data are a folder, and it says
# what it chose and why. `--aim contrast` has glimpses begin where something stands out, which is quickly learned from; the other
# settings make it short. Leave `--updates`, `--batch`, `--widths` and `--glimpses` out to train in earnest.

# %%
import shlex

from wsram.cli import main

settings = (
    "--aim contrast --updates 150 --learning-rate 3e-3 --batch 16 --widths 8 16 --glimpses 2 --evaluate-every 150"
)
main(shlex.split(f"train shapes {settings} --run runs/shapes"))

# %% [markdown]
# ## Ask from a program
#
# `from_pretrained` takes the run's folder; what it gives answers about files, arrays and tensors of any size.

# %%
import wsram

predictor = wsram.from_pretrained("runs/shapes")
image = draw("disc", 1000)
prediction = predictor.predict(image)
print(prediction)
print(prediction.to_dict()["glimpses"][0])  # in pixels of the image

# %% [markdown]
# Any number of files, one after the other, and what cannot be read is an answer too:

# %%
for path, answer in predictor.predict_many(["shapes/cross/00.png", "absent.png"]):
    print(path, answer if isinstance(answer, wsram.UserError) else answer.best[0])

# %% [markdown]
# And where it looked:

# %%
prediction.draw().savefig("folder-look.png")

# %% [markdown]
# ![The image, its glimpses in their order, what each showed, and the belief after it](folder-look.png)
#
# It looks where the shape is; what it calls it after so short a training is another matter, see the error above.
#
# To pass it on: `wsram release runs/shapes --to my-network` writes a folder with a card, which `from_pretrained` opens
# anywhere, and `predictor.push_to_hub("OWNER/NAME")` sends it to the Hugging Face Hub. What a network gets wrong that never saw its
# like is on [Limits](../limits.md).
