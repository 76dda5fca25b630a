"""Messages, scalars by iteration, the progress line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from utils import logs


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [h for h in root.handlers if (h.name or "").startswith(logs.HANDLER_PREFIX)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def read_metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestConfigure:
    def test_rank_0_speaks_from_info_and_appends_to_the_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "log.txt"
        file.write_text("earlier\n")
        logs.configure(0, file)
        logging.getLogger("trainers").info("hello")
        assert "hello" in capsys.readouterr().err
        assert file.read_text().startswith("earlier\n")
        assert "INFO hello" in file.read_text()

    def test_other_ranks_speak_only_of_warnings_and_say_who_they_are(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.configure(3, None)
        logging.getLogger("trainers").info("hello")
        logging.getLogger("trainers").warning("careful")
        assert capsys.readouterr().err.endswith("[rank 3] careful\n")

    def test_messages_before_there_is_a_file_are_in_it_once_there_is_one(self, tmp_path: Path) -> None:
        logs.configure(0, None)
        logging.getLogger("trainers").info("global batch 2")
        logs.configure(0, tmp_path / "log.txt")
        logging.getLogger("trainers").info("run folder")
        logs.configure(0, None)
        logging.getLogger("trainers").info("too late")
        lines = (tmp_path / "log.txt").read_text().splitlines()
        assert [line.split(" ", 2)[2] for line in lines] == ["INFO global batch 2", "INFO run folder"]

    def test_a_new_start_forgets_what_was_held_for_the_one_before(self, tmp_path: Path) -> None:
        logs.configure(0, None)
        logging.getLogger("trainers").info("refused")
        logs.configure(0, None)
        logs.configure(0, tmp_path / "log.txt")
        assert (tmp_path / "log.txt").read_text() == ""

    def test_configuring_again_replaces_the_handlers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.configure(0, tmp_path / "a.txt")
        logs.configure(0, tmp_path / "b.txt")
        logging.getLogger("trainers").info("hello")
        assert capsys.readouterr().err.count("hello") == 1
        assert (tmp_path / "a.txt").read_text() == ""


class TestMetricLog:
    def test_one_line_per_iteration_with_null_for_what_is_not_finite(self, tmp_path: Path) -> None:
        log = logs.MetricLog(tmp_path, tensorboard=False)
        log.scalars(5, {"loss/total": 1.5, "loss/target": float("nan")})
        log.scalars(10, {"loss/total": 1.0})
        first, second = read_metrics(tmp_path)
        assert (first["iteration"], first["loss/total"], first["loss/target"]) == (5, 1.5, None)
        assert second["iteration"] == 10
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]

    def test_tensorboard_gets_the_same_values(self, tmp_path: Path) -> None:
        log = logs.MetricLog(tmp_path)
        log.scalars(5, {"loss/total": 1.5})
        log.picture(5, "samples", np.zeros((4, 6, 3), np.uint8))
        log.close()
        events = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))
        assert b"loss/total" in events
        assert b"samples" in events
        assert (tmp_path / "pictures/iteration_0000005_samples.png").exists()

    def test_an_unused_log_leaves_no_files(self, tmp_path: Path) -> None:
        logs.MetricLog(tmp_path).close()
        assert list(tmp_path.iterdir()) == []

    def test_a_rank_without_folder_writes_nothing(self, tmp_path: Path) -> None:
        log = logs.MetricLog(None)
        log.scalars(1, {"loss": 1.0})
        log.picture(1, "samples", np.zeros((4, 6, 3), np.uint8))
        log.rewind(0)
        log.close()
        assert list(tmp_path.iterdir()) == []

    def test_rewinding_drops_later_lines_and_a_torn_last_one(self, tmp_path: Path) -> None:
        log = logs.MetricLog(tmp_path, tensorboard=False)
        for iteration in (5, 10, 15):
            log.scalars(iteration, {"loss": iteration})
        with (tmp_path / "metrics.jsonl").open("a") as stream:
            stream.write('{"iteration": 2, "lo')
        log.rewind(10)
        log.scalars(15, {"loss": 0})
        assert [(line["iteration"], line["loss"]) for line in read_metrics(tmp_path)] == [
            (5, 5), (10, 10), (15, 0),
        ]  # fmt: skip


class TestProgress:
    def test_line_tells_how_far_and_how_long(self) -> None:
        line = logs.Progress(0, 1000).line(120, 60.0, data_seconds=1.8, values={"loss": 0.12345})
        assert line.startswith("iter 120/1000   12 %  2 it/s  eta 0:07:20  data wait 3 %  peak ")
        assert line.endswith("GiB  loss 0.1235")

    def test_the_rate_counts_only_this_process_after_a_resume(self) -> None:
        assert "2 it/s  eta 0:00:20" in logs.Progress(900, 1000).line(960, 30.0)

    def test_the_rate_is_smoothed(self) -> None:
        progress = logs.Progress(0, 100, smoothing=0.5)
        progress.line(10, 10.0)
        assert "0.5 it/s" in progress.line(20, 30.0)  # (1 s + 3 s) / 2 per iteration

    def test_no_progress_has_no_end(self) -> None:
        assert "eta ?" in logs.Progress(5, 10).line(5, 1.0)

    def test_the_end_is_at_100_percent(self) -> None:
        assert "100 %" in logs.Progress(0, 3).line(3, 1.0)

    def test_shows_losses_first_and_no_more_than_fit(self) -> None:
        names = ["accuracy/a", "loss/b_aux", "loss/c", "lr/x", *(f"loss/m{i}" for i in range(9))]
        shown = list(logs.brief(dict.fromkeys(names, 1.0)))
        assert len(shown) == logs.LONGEST_LINE
        assert shown[:2] == ["loss/c", "loss/m0"]
        few = {"accuracy/a": 1.0, "loss/b_aux": 2.0, "lr/x": 3.0, "loss/c": 4.0}
        assert list(logs.brief(few)) == ["loss/c", "lr/x", "loss/b_aux", "accuracy/a"]

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360_000, "100:00:00")]
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert logs.format_duration(seconds) == text

    def test_peak_memory_of_this_process_is_plausible(self) -> None:
        assert 0.01 < logs.peak_memory_gib() < 1000
