# %% [markdown]
# # See where it looks
#
# For students: a trained network, one image, and everything it does with it.

# %%
from PIL import Image, ImageDraw, ImageFilter

import wsram

image = Image.new("L", (100, 100))
ImageDraw.Draw(image).line([(24, 30), (70, 28), (44, 78)], fill=255, width=6, joint="curve")
image = image.filter(ImageFilter.GaussianBlur(1))

predictor = wsram.from_pretrained("robust")  # comes with the package; draws no random numbers unless asked
prediction = predictor.predict(image)
print(prediction)

# %% [markdown]
# ## Glimpse by glimpse
#
# A glimpse is a small square, cut at one of a few scales: at scale 2 one of its pixels is the mean of 2×2 pixels of the image. The network has
# seen nothing else of the image when it says what it believes, but for a coarse view of all of it, from which it chooses
# where to look.

# %%
for number, glimpse in enumerate(prediction.glimpses, 1):
    where = f"left {glimpse.left:.0f}, top {glimpse.top:.0f}, side {glimpse.side:.0f}"
    print(f"{number}: {where}, then {prediction.believed(glimpse)}")
prediction.draw("7").savefig("looking-order.png")

# %% [markdown]
# ![The glimpses in their order, what each showed, and the belief after it](looking-order.png)
#
# ## Chance
#
# Where to look is a random choice while it learns; the network above took the likeliest place each time. Drawn instead, sequences differ, and
# their mean is a vote:

# %%
print(prediction.votes(16))

# %% [markdown]
# ## Where the evidence is
#
# Suppose the answer is 7. Which glimpses must it have taken? That is the posterior, p(glimpses | answer, image). It is drawn as a map by sampling
# sequences and weighing each by how probable it makes the answer; the effective samples say how many of them count.

# %%
evidence = predictor.explain(image, "7", against="1", samples=200)
print(evidence)
evidence.draw().savefig("looking-evidence.png")

# %% [markdown]
# ![The image, the evidence for a 7, and that for a 1](looking-evidence.png)
#
# What is looked at whatever the answer is in both maps; only their difference speaks for one against the other. The equations are on
# [The model](../model.md), and [Estimators](../estimators.md) says how such a network learns.
