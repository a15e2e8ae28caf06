"""Stochastic hard attention: networks that look at a few small crops of an image instead of every pixel.

Implements the Wake-Sleep Recurrent Attention Model (Ba, Grosse, Salakhutdinov & Frey, NIPS 2015). The parts one builds
with are here by name; the modules hold the rest.
"""

from wsram.actions import Action, GlimpseDistribution
from wsram.errors import UserError
from wsram.estimators import Estimate, variational, variational_credit, vimco, wake_sleep, wake_sleep_credit
from wsram.glimpse import Sensor
from wsram.rollout import Rollout

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Estimate",
    "GlimpseDistribution",
    "Rollout",
    "Sensor",
    "UserError",
    "variational",
    "variational_credit",
    "vimco",
    "wake_sleep",
    "wake_sleep_credit",
]
