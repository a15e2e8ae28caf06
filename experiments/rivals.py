"""What one would use instead of glimpses on a large image, small and as their papers have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 50
"""Side of the patches that are selected or sampled."""
PARTS = 256
"""Patches that are read together."""


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.two = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """From (images, inputs, height, width)."""
        return F.relu(self.two(F.relu(self.one(x))) + self.shortcut(x))


def resnet18(stages: int = 4) -> nn.Sequential:
    """ResNet-18 on grey images, as features (images, 64 · 2^(stages - 1)) after so many of its four stages."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    width = 64
    for stage in range(stages):
        wider = 64 * 2**stage
        layers += [Block(width, wider, 1 + (stage > 0)), Block(wider, wider, 1)]
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class WholeImage(nn.Module):
    """ResNet-18 over all of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(resnet18(), nn.Linear(512, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (1, 10) of an image (1, height, width), uint8."""
        return self.network(image.float().unsqueeze(0) / 255)


class PatchSelection(nn.Module):
    """Every patch is read and scored, without gradients; the best are kept, read again and attended to.

    Source: Bergner, Lippert & Mahendran 2023 (Iterative Patch Selection): patches of 50, a ResNet-18 cut after two
    stages, 100 patches kept, one query of cross-attention with 8 heads.
    """

    def __init__(self, kept: int = 100) -> None:
        super().__init__()
        self.kept, self.encoder = kept, resnet18(2)
        self.query = nn.Parameter(torch.randn(1, 1, 128))
        self.attention = nn.MultiheadAttention(128, 8, batch_first=True)
        self.answer = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (1, 10) of an image (1, height, width), uint8."""
        rows, columns = (max(1, length // PATCH) for length in image.shape[-2:])
        best, score = torch.zeros(0, dtype=torch.long), torch.zeros(0)
        was, features = self.encoder.training, torch.zeros(0, 128)
        self.encoder.eval()
        with torch.no_grad():
            for part in torch.arange(rows * columns).split(PARTS):
                features = torch.cat([features, self.encoder(_patches(image, part, columns))])
                best = torch.cat([best, part])
                score = self.attention(self.query, features[None], features[None])[1].flatten()
                chosen = score.topk(min(self.kept, len(score))).indices
                best, features = best[chosen], features[chosen]
        self.encoder.train(was)
        read = self.encoder(_patches(image, best, columns)).unsqueeze(0)
        return self.answer(self.attention(self.query, read, read, need_weights=False)[0][:, 0])


class AttentionSampling(nn.Module):
    """Attention over a view of the whole image says which patches are read at full resolution.

    Source: Katharopoulos & Fleuret 2019: a view of 0.12 of the side, 10 patches of 50 drawn without replacement by
    Gumbel noise, and the gradient of the attention through the patches' mean.
    """

    def __init__(self, samples: int = 10, share: float = 0.12) -> None:
        super().__init__()
        self.samples, self.share = samples, share
        self.score = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()),
            nn.Conv2d(8, 1, 3, padding=1),
        )
        convolutions: list[nn.Module] = []
        for width, inputs in ((32, 1), (32, 32), (32, 32), (32, 32)):
            convolutions += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.feature = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.answer = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (1, 10) of an image (1, height, width), uint8."""
        side = max(8, round(self.share * image.shape[-1]))
        view = F.adaptive_avg_pool2d(image.float() / 255, side).unsqueeze(0)
        log_p = self.score(view).flatten().log_softmax(-1)
        noise = -torch.empty_like(log_p).exponential_().log()
        chosen = (log_p.detach() + noise).topk(self.samples).indices
        corners = torch.stack([chosen // side, chosen % side], -1) * (image.shape[-1] - PATCH) // side
        patches = torch.stack([image[:, y : y + PATCH, x : x + PATCH] for y, x in corners.clamp(min=0).tolist()])
        features = self.feature(patches.float() / 255)
        # Its value is the patches' mean, and its gradient that of the expectation under the attention.
        weights = (log_p[chosen] - log_p[chosen].detach()).exp() / self.samples
        return self.answer((weights.unsqueeze(-1) * features).sum(0, keepdim=True))


def _patches(image: Tensor, numbers: Tensor, columns: int) -> Tensor:
    """Patches (numbers, 1, side, side) in [0, 1], numbered row by row."""
    places = [(n // columns * PATCH, n % columns * PATCH) for n in numbers.tolist()]
    return torch.stack([image[:, y : y + PATCH, x : x + PATCH] for y, x in places]).float() / 255
