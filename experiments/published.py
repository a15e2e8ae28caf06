"""Figures that others published, each with its source; ours stand beside them in the tables.

Of Ba et al. 2015 a review quotes 3.11, 1.85 and 1.62; the rest is as we know it, not checked against a copy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One method's figures.

    values: in percent.
    source: who reported them, and on what.
    """

    values: tuple[float, ...]
    source: str


_BA_MNIST = "Ba et al. 2015 (arXiv 1509.06812), translated scaled MNIST, test error after 10 million updates"
_BA_FLICKR = "Ba et al. 2015 (arXiv 1509.06812), Flickr8k, BLEU-1 to -4 without brevity penalty"
_XU_FLICKR = "Xu et al. 2015 (Show, Attend and Tell), Flickr8k, BLEU-1 to -4 without brevity penalty"

MNIST_ERROR: dict[tuple[str, bool], Published] = {
    ("VAR", False): Published((3.11,), _BA_MNIST),
    ("VAR", True): Published((1.81,), _BA_MNIST),
    ("WS-RAM", False): Published((4.23,), _BA_MNIST),
    ("WS-RAM", True): Published((1.85,), _BA_MNIST),
    ("WS-RAM + q", False): Published((2.59,), _BA_MNIST),
    ("WS-RAM + q", True): Published((1.62,), _BA_MNIST),
}
"""Test error by method and whether control variates are on."""

VARIANCE_CUT = Published(
    (40.0, 50.0),
    "Ba et al. 2015 (arXiv 1509.06812), the cut of the gradient's variance by control variates, from and to",
)

FLICKR8K_BLEU: dict[str, Published] = {
    "VAR": Published((62.3, 41.6, 26.9, 17.2), _BA_FLICKR),
    "WS-RAM": Published((61.1, 40.4, 26.9, 17.8), _BA_FLICKR),
    "hard attention": Published((67.0, 45.7, 31.4, 21.3), _XU_FLICKR),
    "soft attention": Published((67.0, 44.8, 29.9, 19.5), _XU_FLICKR),
}
"""BLEU-1 to -4 under the names the papers use; comparable with the protocol `papers` alone."""
