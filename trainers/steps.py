"""What a method hands to the training loop: one `Step` per backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from data_loaders.samples import Batch

Batches = Mapping[str, Batch]


@dataclass(slots=True)
class StepOutput:
    """Result of one step module's forward on one micro-batch.

    Attributes:
        loss: scalar to differentiate; its mean over ranks is the loss of the global batch.
        terms: detached scalars to log, unweighted, by name; their mean over ranks is the global value.
        carried: detached tensors that later steps of the same iteration need.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    carried: dict[str, Tensor] = field(default_factory=dict)


class StepModule(nn.Module):
    """All forward passes of one backward, entered once per micro-batch (so that DDP sees one forward).

    Subclasses implement `forward(batches, carried, iteration) -> StepOutput`.
    """

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """Computes the losses of this step for one micro-batch at a 0-based iteration."""
        raise TypeError(f"{type(self).__name__} does not define forward")


@dataclass(slots=True)
class Step:
    """One backward pass and the optimizers that it feeds.

    Attributes:
        name: prefix in logs and key in snapshots.
        module: step module; the loop wraps it for data parallelism.
        optimizers: by name (unique over all steps of a trainer).
        max_grad_norm: gradients of all its parameters are clipped to this L2 norm; None leaves them.
    """

    name: str
    module: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    max_grad_norm: float | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that one of the step's optimizers updates."""
        return [
            parameter
            for optimizer in self.optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]


def detached(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same scalars without their graphs."""
    return {name: value.detach() for name, value in terms.items()}
