"""What can be trained: tasks by the name that a run's settings and a network carry."""

from wsram.tasks.captioning import Captioning
from wsram.tasks.classification import Classification
from wsram.tasks.task import Options, Task, Update

TASKS: dict[str, Task] = {"image-classification": Classification(), "image-to-text": Captioning()}

__all__ = ["TASKS", "Options", "Task", "Update"]
