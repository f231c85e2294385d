"""What a network is for: loss, metric, agreement."""

from .catalog import names as list
from .catalog import task_of
from .imitation import imitate
from .metric import Metric
from .task import TASKS, Task

__all__ = ["TASKS", "Metric", "Task", "imitate", "list", "task_of"]
