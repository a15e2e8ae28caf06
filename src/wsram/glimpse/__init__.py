"""Looking: what can be glimpsed at, the sensor that cuts glimpses, and the actions that say where and how coarsely."""

from wsram.glimpse.actions import Action, CellDistribution, GlimpseDistribution
from wsram.glimpse.pyramid import Images, Pyramid, average_pool
from wsram.glimpse.sensor import Sensor
from wsram.glimpse.source import Glimpsable, Held, Source
from wsram.glimpse.windows import Windows

__all__ = [
    "Action",
    "CellDistribution",
    "Glimpsable",
    "GlimpseDistribution",
    "Held",
    "Images",
    "Pyramid",
    "Sensor",
    "Source",
    "Windows",
    "average_pool",
]
