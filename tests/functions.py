"""tanh as custom autograd Functions, which tell autograd more or less of their derivatives."""

import torch
from torch.autograd.function import once_differentiable


class Twice(torch.autograd.Function):
    """Its backward is of operations that autograd knows; it has no forward mode."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(context, w):
        return w * (1 - context.saved_tensors[0].tanh() ** 2)


class Once(Twice):
    """Its backward refuses a second derivative."""

    backward = staticmethod(once_differentiable(Twice.backward))


class Foreign(Twice):
    """Its backward leaves torch, as a kernel of an extension does: nothing is recorded, nothing refused."""

    @staticmethod
    def backward(context, w):
        with torch.no_grad():
            return Twice.backward(context, w.detach())


class Lying(Twice):
    """Its backward is that of another function."""

    @staticmethod
    def backward(context, w):
        return -3 * w.detach()
