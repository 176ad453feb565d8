"""Floor 3: objectives and descent. Training is a generator that yields progress."""

from keelnet.learning.descent import SGD, Adam, Budget, Progress, Training, descend
from keelnet.learning.objective import Objective

__all__ = ["SGD", "Adam", "Budget", "Objective", "Progress", "Training", "descend"]
