"""Stochastic hard attention: networks that look at a few small crops of an image instead of every pixel.

Implements the Wake-Sleep Recurrent Attention Model (Ba, Grosse, Salakhutdinov & Frey, NIPS 2015). The parts one builds
with are here by name, loaded when first asked for; the modules hold the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Action": "wsram.glimpse.actions",
    "AttentionCaptioner": "wsram.models.captioner",
    "AttentionClassifier": "wsram.models.classifier",
    "ESTIMATORS": "wsram.estimators",
    "Caption": "wsram.answers",
    "Estimate": "wsram.estimators",
    "Evidence": "wsram.evidence",
    "GlimpseDistribution": "wsram.glimpse.actions",
    "Prediction": "wsram.answers",
    "Predictor": "wsram.predictor",
    "Pyramid": "wsram.glimpse.pyramid",
    "RECIPES": "wsram.recipes",
    "Rollout": "wsram.models.rollout",
    "Run": "wsram.runs",
    "Screen": "wsram.terminal",
    "Sensor": "wsram.glimpse.sensor",
    "UserError": "wsram.errors",
    "fit": "wsram.fitting",
    "from_pretrained": "wsram.predictor",
    "save_network": "wsram.models.pretrained",
    "train": "wsram.training",
    "variational": "wsram.estimators",
    "variational_credit": "wsram.estimators",
    "vimco": "wsram.estimators",
    "wake_sleep": "wsram.estimators",
    "wake_sleep_credit": "wsram.estimators",
    "wake_sleep_resampled": "wsram.estimators",
}
"""Where each public name lives."""

if TYPE_CHECKING:
    from wsram.answers import Caption, Prediction
    from wsram.errors import UserError
    from wsram.estimators import (
        ESTIMATORS,
        Estimate,
        variational,
        variational_credit,
        vimco,
        wake_sleep,
        wake_sleep_credit,
        wake_sleep_resampled,
    )
    from wsram.evidence import Evidence
    from wsram.fitting import fit
    from wsram.glimpse.actions import Action, GlimpseDistribution
    from wsram.glimpse.pyramid import Pyramid
    from wsram.glimpse.sensor import Sensor
    from wsram.models.captioner import AttentionCaptioner
    from wsram.models.classifier import AttentionClassifier
    from wsram.models.pretrained import save_network
    from wsram.models.rollout import Rollout
    from wsram.predictor import Predictor, from_pretrained
    from wsram.recipes import RECIPES
    from wsram.runs import Run
    from wsram.terminal import Screen
    from wsram.training import train

__all__ = [
    "ESTIMATORS",
    "RECIPES",
    "Action",
    "AttentionCaptioner",
    "AttentionClassifier",
    "Caption",
    "Estimate",
    "Evidence",
    "GlimpseDistribution",
    "Prediction",
    "Predictor",
    "Pyramid",
    "Rollout",
    "Run",
    "Screen",
    "Sensor",
    "UserError",
    "fit",
    "from_pretrained",
    "save_network",
    "train",
    "variational",
    "variational_credit",
    "vimco",
    "wake_sleep",
    "wake_sleep_credit",
    "wake_sleep_resampled",
]


def __getattr__(name: str) -> Any:
    """The public name, from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
