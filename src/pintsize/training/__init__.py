"""Train a network, recover a smaller one from its teacher, and evaluate either."""

from .callbacks import Callback, TrainState
from .evaluation import evaluate
from .history import History
from .loop import train
from .options import Options

__all__ = ["Callback", "History", "Options", "TrainState", "evaluate", "train"]
