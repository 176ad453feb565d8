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
        """Each part in its own mode again; parts that were built since then in the whole network's.

        Where a ``train`` of the network's own keeps a part in another mode than the whole, a frozen backbone say, it stays so.
        """
        whole = self.given[self.network]
        self.network.train(whole)
        for part, mode in self.given.items():
            if part.training == whole:
                part.training = mode
