"""Floor 3: objectives and descent. Training is a generator that yields progress."""

from keelnet.learning.descent import Progress, State, descend
from keelnet.learning.methods import SGD, Adam
from keelnet.learning.objective import Objective
from keelnet.learning.training import Budget, Training

__all__ = ["SGD", "Adam", "Budget", "Objective", "Progress", "State", "Training", "descend"]
