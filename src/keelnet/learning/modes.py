"""Modes: which parts of a network train, and which their user keeps in evaluation mode."""

from __future__ import annotations

from torch import nn


class Modes:
    """The mode of each part of a network, training or evaluation, as it is now.

    ``network.train(mode)`` gives all parts one: a norm that its user has frozen by ``.eval()`` would move its statistics
    from then on.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.given = {part: part.training for part in network.modules()}

    @classmethod
    def for_training(cls, network: nn.Module) -> Modes:
        """Those of a network in training mode; one in evaluation mode as a whole is put in training mode first."""
        if not network.training:
            network.train()
        return cls(network)

    def restore(self) -> None:
        """Each part in its own mode again; parts that were built since then in the whole network's."""
        self.network.train(self.given[self.network])  # one of its own may do more than set flags
        for part, mode in self.given.items():
            part.training = mode
