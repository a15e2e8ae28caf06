"""The recurrent attention model as it is usually written: images cut one by one, sequences drawn one at a time.

Our own rendering of a structure, to be timed beside ours; not the program it is known from. A glimpse pads every image,
slices each in a Python loop over the batch, once for each of several nested squares, and averages the larger ones
down; a pass draws one sequence for each image; REINFORCE with a learned baseline teaches where to look, and the label's
loss the rest (the hybrid loss).

Source: Mnih et al. 2014 (Recurrent Models of Visual Attention); the structure, kevinzakka/recurrent-visual-attention,
2020. Locations become numbers once for a whole batch here, which is faster than slicing by tensors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POLICY_WEIGHT = 0.01
"""Of the policy's loss beside the label's and the baseline's."""


def crop(images: Tensor, location: Tensor, sides: list[int]) -> list[Tensor]:
    """A square of each image, (channels, side, side) each: all images padded, then a slice at a time.

    Args:
        images: (batch, channels, height, width).
        location: (batch, 2) of the squares' centres, (x, y) in [-1, 1] from edge to edge of the image.
        sides: (batch) even, in pixels.
    """
    height, width = images.shape[-2:]
    half = max(sides) // 2
    padded = F.pad(images, (half, half, half, half))
    x = ((location[:, 0] + 1) / 2 * width).long().tolist()
    y = ((location[:, 1] + 1) / 2 * height).long().tolist()
    squares = []
    for n, side in enumerate(sides):
        left, top = x[n] + half - side // 2, y[n] + half - side // 2
        squares.append(padded[n, :, top : top + side, left : left + side])
    return squares


def glimpses(images: Tensor, location: Tensor, patch: int, factors: list[int]) -> Tensor:
    """(batch, channels, patch, patch) of each image, where one glimpse pixel is the mean of factor by factor pixels."""
    squares = crop(images, location, [patch * factor for factor in factors])
    return torch.stack([F.avg_pool2d(square, factor) for square, factor in zip(squares, factors, strict=True)])


class RecurrentAttention(nn.Module):
    """The recurrent attention model, one sequence of each image at a time.

    Args:
        channels: of the images.
        classes: of the labels.
        glimpses: in a sequence.
        patch: side of a glimpse, in glimpse pixels.
        scales: nested squares of a glimpse, each of twice the side of the one before.
        hidden: units of the recurrent layer; a glimpse is read by half as many.
        std: of a location, along each axis.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 10,
        glimpses: int = 4,
        patch: int = 16,
        scales: int = 3,
        hidden: int = 256,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        self.glimpses, self.patch, self.std, self.hidden = glimpses, patch, std, hidden
        self.factors = [2**n for n in range(scales)]
        half = hidden // 2
        self.what = nn.Sequential(nn.Linear(scales * channels * patch**2, half), nn.ReLU(), nn.Linear(half, hidden))
        self.where = nn.Sequential(nn.Linear(2, half), nn.ReLU(), nn.Linear(half, hidden))
        self.core = nn.RNNCell(hidden, hidden, nonlinearity="relu")
        self.locate = nn.Sequential(nn.Linear(hidden, half), nn.ReLU(), nn.Linear(half, 2))
        self.baseline = nn.Linear(hidden, 1)
        self.answer = nn.Linear(hidden, classes)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The hybrid loss and the share of right answers, scalars, of images (batch, channels, height, width)."""
        count = len(images)
        state = images.new_zeros(count, self.hidden)
        location = torch.rand(count, 2, device=images.device) * 2 - 1
        log_p, worth = [], []
        constant = math.log(self.std * math.sqrt(2 * math.pi))
        for _ in range(self.glimpses):
            seen = [glimpses(images, location, self.patch, [factor] * count) for factor in self.factors]
            features = F.relu(self.what(torch.cat(seen, 1).flatten(1)) + self.where(location))
            state = self.core(features, state)
            mean = torch.tanh(self.locate(state.detach()))
            drawn = (mean + self.std * torch.randn_like(mean)).detach()
            log_p.append(-(0.5 * ((drawn - mean) / self.std) ** 2 + constant).sum(-1))
            location = drawn.clamp(-1, 1)
            worth.append(self.baseline(state.detach()).squeeze(-1))
        said = self.answer(state).log_softmax(-1)
        right = (said.argmax(-1) == labels).float()
        baselines = torch.stack(worth, -1)
        reward = right.unsqueeze(-1).expand_as(baselines)
        policy = -(torch.stack(log_p, -1) * (reward - baselines.detach())).sum(-1).mean()
        return F.nll_loss(said, labels) + F.mse_loss(baselines, reward) + POLICY_WEIGHT * policy, right.mean()
