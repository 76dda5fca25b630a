"""Watches the loss terms for values that are not finite, without reading the device in every iteration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from utils import distributed
from utils.errors import RunStopped

_REMEDY = "lower --learning-rate or set --max-grad-norm, and give another --snapshot-dir"
_LONGEST_MEMORY = 1000  # iterations whose image names are kept for the message


class FiniteWatch:
    """Remembers, on the device, where each step's terms were first not finite; `check` reads it and stops
    all ranks."""

    def __init__(self) -> None:
        self._found: dict[
            str, Tensor
        ] = {}  # step and term names -> (iteration, term number), -1 while all is well
        self._names: dict[str, tuple[str, ...]] = {}
        self._images: dict[int, tuple[str, ...]] = {}

    def add(self, step: str, iteration: int, terms: Mapping[str, Tensor], images: Iterable[str]) -> None:
        """Looks at one micro-batch's detached scalar terms; the host does not wait."""
        self._images[iteration] = (*self._images.get(iteration, ()), *images)
        if len(self._images) > _LONGEST_MEMORY:
            del self._images[min(self._images)]
        if not terms:
            return
        key = f"{step}:{','.join(terms)}"
        values = torch.stack([value.double() for value in terms.values()])
        bad = ~torch.isfinite(values)
        place = torch.stack([torch.full_like(values[0], iteration), bad.int().argmax().double()])
        here = torch.where(bad.any(), place, torch.full_like(place, -1.0))
        before = self._found.get(key)
        self._found[key] = here if before is None else torch.where(before[0] >= 0, before, here)
        self._names[key] = tuple(terms)

    def check(self) -> None:
        """Stops every rank when a term on any of them was not finite. Collective; reads the device.

        Raises:
            RunStopped: names iteration, term, rank and images of each rank that saw one.
        """
        message = self._message()
        self._found.clear()
        self._images.clear()
        if distributed.any_rank(message is not None, what="the check for finite losses"):
            messages = [text for text in distributed.all_gather_objects(message) if text]
            raise RunStopped(
                f"{'; '.join(messages)}. The last snapshot is good: look at these images, {_REMEDY}"
            )

    def check_weights(self, module: nn.Module, iteration: int) -> None:
        """Stops every rank when a weight or buffer on any of them is not finite after `iteration` updates.

        An update can break the weights although all terms were finite. Collective; reads the device once.

        Raises:
            RunStopped: names some of the tensors.
        """
        tensors = {name: t.detach() for name, t in module.state_dict().items() if t.is_floating_point()}
        finite = torch.stack([torch.isfinite(t).all() for t in tensors.values()]).tolist()
        broken = [name for name, good in zip(tensors, finite, strict=True) if not good]
        if distributed.any_rank(bool(broken), what="the check for finite weights"):
            named = next(names for names in distributed.all_gather_objects(broken[:3]) if names)
            raise RunStopped(
                f"weights are not finite after {iteration} iterations ({', '.join(named)}, ...). The last "
                f"snapshot is good: {_REMEDY}"
            )

    def _message(self) -> str | None:
        firsts = []
        for key, found in self._found.items():
            iteration, term = (int(value) for value in found.tolist())
            if iteration >= 0:
                firsts.append((iteration, self._names[key][term]))
        if not firsts:
            return None
        iteration, term = min(firsts)
        images = ", ".join(dict.fromkeys(self._images.get(iteration, ()))) or "not remembered"
        return f"{term} is not finite at iteration {iteration} on rank {distributed.rank()} (images {images})"
