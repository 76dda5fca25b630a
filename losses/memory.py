"""Target-domain terms without labels: memory regularisation and confident entropy (MRNet).

The memory is the fused prediction softmax(auxiliary_weight * auxiliary + main) of the network itself. Both
terms are plain means over pixels: with equally many pixels per rank, the mean over ranks is the value of the
global batch.
"""

from __future__ import annotations

from torch import Tensor

from utils import maths


def fused_log_probability(auxiliary: Tensor | None, main: Tensor, *, auxiliary_weight: float = 0.5) -> Tensor:
    """Log of the fused prediction of both heads, or of that of the only one, (N, C, H, W)."""
    if auxiliary is None:
        return maths.log_softmax(main)
    fused = auxiliary_weight * maths.at_least_float32(auxiliary) + maths.at_least_float32(main)
    return maths.log_softmax(fused)


def memory_regularization(auxiliary: Tensor, main: Tensor, *, auxiliary_weight: float = 0.5) -> Tensor:
    """Mean over pixels of KL(M || main) + KL(M || auxiliary), with the fused prediction M held fixed.

    Source: the authors' released code of Zheng & Yang, IJCAI 2020; the paper's Eq. 5 is the symmetric
    divergence between the two heads instead. `tests/goldens/test_mrnet_losses.py` pins the code's form.
    """
    memory = fused_log_probability(auxiliary.detach(), main.detach(), auxiliary_weight=auxiliary_weight)
    twice_both = 2 * memory - maths.log_softmax(main) - maths.log_softmax(auxiliary)
    return (memory.exp() * twice_both).sum(1).mean()


def confident_entropy(auxiliary: Tensor | None, main: Tensor, *, auxiliary_weight: float = 0.5) -> Tensor:
    """Mean over pixels of the entropy of the fused prediction p, weighted by sum(p^2), which is held fixed.

    `auxiliary` is None in a network with one head, whose prediction is p.

    Source: the authors' released code of Zheng & Yang, IJCAI 2020 (off in all published runs).
    """
    log_probability = fused_log_probability(auxiliary, main, auxiliary_weight=auxiliary_weight)
    confidence = log_probability.detach().exp().square().sum(1)
    return (confidence * maths.entropy(log_probability)).mean()
