"""Files that `--skip-bad-images` skips: counted over the ranks, reported once each, and not too many."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from data_loaders.streams import SampleStream
from utils import distributed
from utils.errors import UserError

logger = logging.getLogger(__name__)

MOST_SHARE = 0.01  # of a stream's images may be bad
FEW = 3  # that many may be, however small the stream is


class SkippedImages:
    """What the streams of all ranks skipped since the run began, killed and continued parts included.

    Attributes:
        draws: stream name -> how often a file could not be read.
        files: stream name -> one message per bad file.
    """

    def __init__(self) -> None:
        self.draws: dict[str, int] = {}
        self.files: dict[str, set[str]] = {}
        self._new: dict[str, list[str]] = {}  # of this rank, since the last `gather`

    def take(self, streams: Mapping[str, SampleStream]) -> None:
        """Takes over what streams noted, before they are replaced."""
        for name, stream in streams.items():
            if stream.skip_bad_images:
                self._new.setdefault(name, []).extend(stream.skipped)
                stream.skipped.clear()

    def gather(self, streams: Mapping[str, SampleStream]) -> dict[str, float]:
        """Brings all ranks' news together, and rank 0 reports new files. Collective where files are skipped.

        Returns:
            Draws that were replaced, by the names of scalars; the same on every rank.

        Raises:
            UserError: on every rank: too many of a stream's files are bad.
        """
        self.take(streams)
        if not self._new:
            return {}
        everyone = distributed.all_gather_objects(self._new)
        for name, stream in streams.items():
            if stream.skip_bad_images:
                self._add(name, [message for news in everyone for message in news[name]], stream.num_images)
        self._new = {name: [] for name in self._new}
        return {f"data/skipped_{name}": float(draws) for name, draws in self.draws.items()}

    def _add(self, name: str, messages: list[str], num_images: int) -> None:
        known = self.files.setdefault(name, set())
        self.draws[name] = self.draws.get(name, 0) + len(messages)
        most = max(FEW, int(MOST_SHARE * num_images))
        for message in sorted(set(messages) - known):
            known.add(message)
            if distributed.is_main():
                logger.warning(
                    "stream %s: %s Skipped, another is drawn in its place (%d of at most %d bad files)",
                    name, message, len(known), most,
                )  # fmt: skip
        if len(known) > most:
            raise UserError(
                f"{len(known)} files of stream {name} cannot be read, --skip-bad-images allows {most} of "
                f"{num_images}; the last: {max(messages)} Look whether the disk is there, copy the files "
                "again, and start the same command: it continues from the last snapshot",
                everywhere=True,
            )

    def state(self) -> dict[str, Any]:
        """Plain values for a snapshot, as of the last `gather`."""
        return {
            name: {"draws": self.draws[name], "files": sorted(files)} for name, files in self.files.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self.draws = {name: entry["draws"] for name, entry in state.items()}
        self.files = {name: set(entry["files"]) for name, entry in state.items()}
