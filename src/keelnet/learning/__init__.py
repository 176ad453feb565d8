"""Floor 3: objectives and the ways to minimise them. Training is a generator that yields progress."""

from keelnet.learning.block_descent import block_descent
from keelnet.learning.classifier import ClassifierNewton, fit_classifier
from keelnet.learning.descent import descend
from keelnet.learning.gauss_newton import GaussNewton, LineSearchWarning, gauss_newton
from keelnet.learning.losses import ConvexLoss, CrossEntropy, Dice, LeastSquares
from keelnet.learning.methods import LBFGS, SGD, Adam, Method
from keelnet.learning.multilevel import multilevel
from keelnet.learning.objective import Objective
from keelnet.learning.progress import Progress, State
from keelnet.learning.schedules import Constant, Cosine, Part, Schedule, Steps
from keelnet.learning.solvers import Armijo, EisenstatWalker, Fixed, Forcing
from keelnet.learning.tangents import (
    Differences,
    Forward,
    Linearised,
    Stored,
    Tangent,
    Transposed,
)
from keelnet.learning.training import Budget, Training
from keelnet.learning.varpro import varpro

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "Armijo",
    "Budget",
    "ClassifierNewton",
    "Constant",
    "ConvexLoss",
    "Cosine",
    "CrossEntropy",
    "Dice",
    "Differences",
    "EisenstatWalker",
    "Fixed",
    "Forcing",
    "Forward",
    "GaussNewton",
    "LeastSquares",
    "LineSearchWarning",
    "Linearised",
    "Method",
    "Objective",
    "Part",
    "Progress",
    "Schedule",
    "State",
    "Steps",
    "Stored",
    "Tangent",
    "Training",
    "Transposed",
    "block_descent",
    "descend",
    "fit_classifier",
    "gauss_newton",
    "multilevel",
    "varpro",
]
