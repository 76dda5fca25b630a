"""The one training loop: accumulation, precision, clipping, schedules, logs, events, snapshots, stop
signals, exact resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_loaders.streams import SampleStream
from networks.normalization import set_batch_norm
from networks.segmentation import SegmentationNetwork
from trainers import run_state
from trainers.bad_images import SkippedImages
from trainers.loop_settings import EndOfRun, Event, Interrupted, LoopSettings, Outcome, WaitForLabels
from trainers.meter import Meter
from trainers.pictures import training_pictures
from trainers.steps import Batches, Step
from trainers.teacher import Teacher
from trainers.watch import FiniteWatch
from utils import distributed, stopping
from utils.distributed import World
from utils.logs import Progress, peak_memory_gib
from utils.optimizers import set_learning_rate
from utils.runs import DONE, PREEMPTED, WAITING_FOR_LABELS, Run

logger = logging.getLogger(__name__)

Evaluator = Callable[[nn.Module], Mapping[str, float] | None]  # None: a stop signal cut it short
SCORE = "val/miou"  # what `best` is chosen by


class Trainer:
    """Base of all methods. A subclass builds its steps and says its learning rates and state; the loop does
    the rest.

    Args:
        network: the segmentation network, on its device.
        world: this process among the others.
        loop: settings of the loop.
        streams: endless sample streams by name; empty where batches are handed to `run_iteration` directly.
        run: the run folder; None trains without files.
        evaluator: scores a network on target validation images, returns scalars with "val/miou".
        evaluation: protocol stored in snapshots, as plain values.
    """

    method = "base"

    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        world: World,
        loop: LoopSettings,
        streams: Mapping[str, SampleStream] | None = None,
        run: Run | None = None,
        evaluator: Evaluator | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.world = world
        self.loop = loop
        self.streams = dict(streams or {})
        self.run = run
        self.evaluator = evaluator
        self.evaluation = dict(evaluation or {})
        self.iteration = 0
        self.metrics: dict[str, float] = {}
        self.best = float("-inf")
        self.best_at = -1  # iteration of the best score
        self.evaluated_at = -1  # iteration of the newest evaluation
        self.waiting_event: str | None = None  # name of the event that the next start begins with
        set_batch_norm(network, loop.batch_norm, train_affine=loop.train_batch_norm_affine)
        network.train()
        self.teacher = None
        if loop.ema_decay > 0:
            self.teacher = Teacher(network, decay=loop.ema_decay, copy_buffers=loop.ema_copies_buffers)
        self.steps = self.build_steps()
        self.modules = {
            step.name: distributed.wrap_data_parallel(step.module, world.device) for step in self.steps
        }
        self.optimizers = {name: o for step in self.steps for name, o in step.optimizers.items()}
        self.scaler = loop.precision.scaler()
        self.meter = Meter()
        self.watch = FiniteWatch()
        self.skipped = SkippedImages()
        self._waited_s = 0.0
        self._outcome: Outcome = None  # of the newest event
        self._batches: Sequence[Batches] = ()

    # what a method defines

    def build_steps(self) -> list[Step]:
        """Steps in the order in which they run within an iteration."""
        raise TypeError(f"{type(self).__name__} does not define build_steps")

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Learning rate of every optimizer (by name) at a 0-based iteration."""
        raise TypeError(f"{type(self).__name__} does not define learning_rates")

    def method_modules(self) -> dict[str, nn.Module]:
        """Modules beside the network whose state belongs into snapshots."""
        return {}

    def events(self) -> list[Event]:
        """Scheduled events of the method, in order."""
        return []

    def set_mode(self, iteration: int) -> None:
        """Puts the network into the mode in which it trains at a 0-based iteration."""
        self.network.train()

    def iterations_of_stage(self) -> int:
        """Updates since training began, or began anew: evaluations are counted from there."""
        return self.iteration

    def pictures(self, batches: Batches) -> Mapping[str, np.ndarray]:
        """(H, W, 3) uint8 pictures of the newest iteration by name; may leave the network in evaluation
        mode."""
        return training_pictures(self.network, batches)

    def rebuild_streams(self) -> Mapping[str, SampleStream]:
        """The streams to go on with after an event that says so, and after a snapshot was loaded.

        The same ones by default: their workers start anew and so see what changed in the data sets. The loop
        sets the positions.
        """
        return self.streams

    # one iteration

    def run_iteration(self, iteration: int, micro_batches: Sequence[Batches]) -> bool:
        """Runs every step on every micro-batch, then updates all optimizers once.

        Args:
            iteration: 0-based; sets learning rates and gates.
            micro_batches: one mapping of batches (on the device) per accumulated micro-batch.

        Returns:
            Whether a stop signal has reached any rank.

        Raises:
            RunStopped: a loss term is not finite; the update is not applied on CPU, and never saved.
        """
        distributed.now_is(f"in iteration {iteration}")
        self._prepare(iteration)
        for number, batches in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            carried: dict[str, Tensor] = {}
            for step in self.steps:
                module = self.modules[step.name]
                with distributed.gradient_synchronization(module, last):
                    with self.loop.precision.autocast():
                        output = module(batches, carried, iteration)
                    self.scaler.scale(output.loss / len(micro_batches)).backward()
                carried |= output.carried
                self.meter.add(output.terms)
                images = (name for batch in batches.values() for name in batch.names)
                self.watch.add(step.name, iteration, output.terms, images)
        if self.world.device.type == "cpu":  # a GPU would be waited for: there before logs, saves
            self.watch.check()
        stop = distributed.any_rank(stopping.requested() is not None, what="the exchange of stop signals")
        self._update()
        return stop

    def _prepare(self, iteration: int) -> None:
        self.set_mode(iteration)
        for name, rate in self.learning_rates(iteration).items():
            set_learning_rate(self.optimizers[name], rate)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _update(self) -> None:
        for step in self.steps:
            for optimizer in step.optimizers.values():
                self.scaler.unscale_(optimizer)
            if step.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(step.parameters(), step.max_grad_norm)
            for optimizer in step.optimizers.values():
                self.scaler.step(optimizer)
        self.scaler.update()
        if self.teacher is not None:
            self.teacher.update(self.network)

    # the run

    def fit(self) -> int:
        """Trains to `num_steps_stop`, a stop signal or an event that waits for people; returns the exit code
        0 in all cases."""
        done = self.run.is_done() if self.run is not None else None
        if done is not None:
            logger.info("already done: %s", done["text"])
            return 0
        resumed = self.resume()
        progress = Progress(self.iteration, self.loop.num_steps_stop, device=self.world.device)
        self.meter.seconds()
        try:
            if not resumed or self.waiting_event is not None:
                if self._run_events():
                    self.save()
                if self._outcome is not None:
                    return self._end_at_event(self._outcome)
            if resumed and not self._evaluate_if_due():
                return self._leave()
            while self.iteration < self.loop.num_steps_stop:
                self._batches = self.next_batches()
                stop = self.run_iteration(self.iteration, self._batches)
                self.iteration += 1
                distributed.now_is(f"after {self.iteration} iterations")
                self._log(progress)
                self._draw_if_due()
                changed = self._run_events()
                if stop or changed or self._evaluation_due() or self.iteration % self.loop.save_every == 0:
                    self.save()
                if self._outcome is not None:
                    return self._end_at_event(self._outcome)
                if (stop and not self._at_end()) or not self._evaluate_if_due():
                    return self._leave()
        finally:
            for stream in self.streams.values():
                stream.close()
        return self._finish(f"iteration {self.iteration}")

    def next_batches(self) -> list[Batches]:
        """This rank's micro-batches of the next update, on the device."""
        return [
            {
                name: stream.next().to(self.world.device, non_blocking=True)
                for name, stream in self.streams.items()
            }
            for _ in range(self.loop.accumulation)
        ]

    def _log(self, progress: Progress) -> None:
        if self.iteration % self.loop.log_every and self.iteration != self.loop.num_steps_stop:
            return
        self.watch.check()
        scalars = self.meter.read() | self.skipped.gather(self.streams)
        seconds = self.meter.seconds()
        waited = sum(stream.wait_s for stream in self.streams.values())
        data_s, self._waited_s = waited - self._waited_s, waited
        if not self.world.is_main:
            return
        scalars |= {f"lr/{name}": rate for name, rate in self.learning_rates(self.iteration - 1).items()}
        logger.info("%s", progress.line(self.iteration, seconds, data_seconds=data_s, values=scalars))
        scalars |= {
            "time/seconds": seconds,
            "time/data_s": data_s,
            "memory/peak_gib": peak_memory_gib(self.world.device),
        }
        if self.run is not None:
            self.run.log.scalars(self.iteration, scalars)

    def _run_events(self) -> bool:
        """Runs what is due after `iteration` updates, up to an event that cannot be finished now; True if a
        method's event happened, to be saved. A continued run begins with the event it ended in."""
        due = [event for event in self.events() if event.due(self.iteration)]
        names = [event.name for event in due]
        if self.waiting_event in names:
            due = due[names.index(self.waiting_event) :]
        for event in due:
            if event.snapshot_first and self.waiting_event != event.name:
                self.waiting_event = event.name
                self.save()
            logger.info("%s after iteration %d", event.name, self.iteration)
            self._outcome = distributed.broadcast_object(event.action(self.iteration))
            self.meter.seconds()  # the time of events is none of the iterations'
            self.waiting_event = None if self._outcome is None else event.name
            if event.rebuild_streams:
                self.renew_streams({name: stream.consumed for name, stream in self.streams.items()})
            if self._outcome is not None:
                break
        return bool(due)

    def renew_streams(self, consumed: Mapping[str, int]) -> None:
        """Takes over the streams of `rebuild_streams` after so many draws of each; what was loaded ahead is
        dropped."""
        self.skipped.take(self.streams)
        for stream in self.streams.values():
            stream.close()
        self.streams = dict(self.rebuild_streams())
        for name, stream in self.streams.items():
            stream.seek(consumed.get(name, 0))
        self._waited_s = sum(stream.wait_s for stream in self.streams.values())

    def _at_end(self) -> bool:
        return self.iteration == self.loop.num_steps_stop

    def _evaluation_due(self) -> bool:
        every, done = self.loop.evaluate_every, self.iterations_of_stage()
        due = self._at_end() or (every > 0 and done > 0 and done % every == 0)
        return due and self.evaluated_at != self.iteration

    def _evaluate_if_due(self) -> bool:
        """Evaluates and saves the scores; False when a stop signal cut it short: the next start does it."""
        if self.evaluator is None or not self._evaluation_due():
            return True
        if not self.evaluate():
            return False
        self.save()
        return True

    def _draw_if_due(self) -> None:
        every = self.loop.pictures_every
        if not every or (self.iteration % every and not self._at_end()):
            return
        if self.world.is_main and self.run is not None:
            for name, picture in self.pictures(self._batches[-1]).items():
                self.run.log.picture(self.iteration, name, picture)
        self.network.train()

    def evaluate(self) -> bool:
        """Scores the network on target validation images with rank 0's buffers; False when stopped."""
        assert self.evaluator is not None
        self.watch.check()
        distributed.synchronize_buffers_(self.network)
        metrics = self.evaluator(self.network)
        self.network.train()
        self.meter.seconds()
        if metrics is None:
            return False
        self.metrics = dict(metrics)
        self.evaluated_at = self.iteration
        if self.world.is_main and self.run is not None:
            self.run.log.scalars(self.iteration, self.metrics)
        return True

    def present_scores(self) -> Mapping[str, float] | None:
        """The evaluation after this iteration, saved at once: an event that is killed goes on without another
        one, and `best` must know it all the same. None when stopped."""
        if self.evaluated_at != self.iteration:
            if not self.evaluate():
                return None
            self.save()
        return self.metrics

    # snapshots

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to continue bit for bit. Every rank must call it."""
        return run_state.collect(self)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over a state made by `state()`, on any number of processes."""
        run_state.restore(self, state)

    def save(self) -> None:
        """Writes a snapshot on rank 0; no rank goes on before the file is in place."""
        if self.run is None:
            return
        self.watch.check()
        self.watch.check_weights(self.network, self.iteration)
        if self.metrics.get(SCORE, float("-inf")) > self.best:
            self.best, self.best_at = self.metrics[SCORE], self.iteration
        self.skipped.gather(self.streams)
        state = self.state()
        if self.world.is_main:
            self._mark_if_best(self.run.snapshots.write(state, self.iteration))
        distributed.barrier(f"snapshot of iteration {self.iteration}")

    def _mark_if_best(self, path: Path) -> None:
        """Points `best` at the newest snapshot if it is that of the best score, unless it does already."""
        if self.best_at == self.iteration and self.run.snapshots.path_of("best") != path:
            self.run.snapshots.mark("best", path, f"selected on target val: mIoU {self.best:.2f}")

    def resume(self) -> bool:
        """Continues from the newest good snapshot of the run folder, if there is one.

        Returns:
            Whether there was one.

        Raises:
            UserError: on every rank: no snapshot of the folder can be read, it is another method's, or the
                streams read other data than it did. Marks of the folder stay then.
        """
        if self.run is None:
            return False
        path = run_state.load_newest(self)
        self.run.clear_marks()
        self.run.resume_at(self.iteration)
        if path is None:
            return False
        if self.world.is_main:  # killed between the snapshot and its mark?
            self._mark_if_best(path)
        logger.info("continuing from %s (iteration %d)", path, self.iteration)
        return True

    def _end_at_event(self, outcome: WaitForLabels | Interrupted | EndOfRun) -> int:
        if isinstance(outcome, Interrupted):
            return self._leave()
        if isinstance(outcome, EndOfRun):
            return self._finish(outcome.text)
        line = f"waiting after iteration {self.iteration}: {outcome.text}; then the same command"
        return self._end(WAITING_FOR_LABELS, outcome.text, line)

    def _leave(self) -> int:
        signal = stopping.requested() or "a signal on another rank"
        line = f"stopping after iteration {self.iteration}: {signal}; the same command continues"
        return self._end(PREEMPTED, f"iteration {self.iteration}, {signal}", line)

    def _finish(self, text: str) -> int:
        score = self.metrics.get(SCORE)
        text = text if score is None else f"{text}, target val mIoU {score:.2f}"
        return self._end(DONE, text, f"done: {text}")

    def _end(self, mark: str, text: str, line: str) -> int:
        """Leaves a mark in the run folder and a line in the log; the exit code."""
        logger.log(logging.WARNING if mark == PREEMPTED else logging.INFO, "%s", line)
        if self.run is not None and self.world.is_main:
            self.run.mark(mark, text)
        distributed.barrier(f"the end of the run ({mark})")
        return 0
