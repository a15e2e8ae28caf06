"""Looking: what can be glimpsed at, the sensor that cuts glimpses, and the actions that say where and how coarsely."""

from wsram.glimpse.actions import Action, CellDistribution, GlimpseDistribution
from wsram.glimpse.pyramid import Images, Pyramid, average_pool
from wsram.glimpse.sensor import Sensor

__all__ = ["Action", "CellDistribution", "GlimpseDistribution", "Images", "Pyramid", "Sensor", "average_pool"]
