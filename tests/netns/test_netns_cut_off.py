"""Two machines that share only a wire train together; one is cut off, both stop in time and say why, and the
same commands go on later to the weights of a run that nobody cut."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.batch_runs import DEMO, ITERATIONS, SOURCE_ONLY, last_state, logged
from tests.distributed.launching import run_processes
from tests.forked_runs import assert_same
from tests.netns.namespaces import running, two_machines, why_not_allowed

pytestmark = [pytest.mark.netns]
TIMEOUT_S = 60
STOPPED_AFTER_S = 240  # the time-out, the roll call, and torchrun's wait for its processes


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    if not os.environ.get("SEGADAPT_TEST_NETNS"):
        pytest.skip("minutes, as root: make test-netns runs it")
    reason = why_not_allowed()
    if reason is not None:
        pytest.skip(f"network namespaces are not allowed here: {reason}")


def test_cut_off_machine(tmp_path: Path) -> None:
    data, folder, untouched = tmp_path / "data", tmp_path / "run", tmp_path / "untouched"
    run_processes(1, ["prepare_data.py", "demo", str(data), *DEMO], timeout=900)
    words = ["train_source.py", *SOURCE_ONLY, "--data-root", str(data), "--save-every", "2"]
    run_processes(4, [*words, "--snapshot-dir", str(untouched)], timeout=400)
    words += ["--snapshot-dir", str(folder), "--timeout-seconds", str(TIMEOUT_S)]
    first = [tmp_path / f"first{number}" for number in range(2)]
    with two_machines() as machines:
        with running(machines, words, first) as launchers:
            deadline = time.monotonic() + 400
            while logged(folder)[-1:] < [3]:
                assert time.monotonic() < deadline, first[0].read_text()
                assert launchers[0].poll() is None, first[0].read_text()
                time.sleep(0.1)
            machines[1].plug(False)
            cut = time.monotonic()
            codes = [launcher.wait(timeout=STOPPED_AFTER_S) for launcher in launchers]
            assert time.monotonic() - cut < STOPPED_AFTER_S
        assert 0 not in codes
        said = [file.read_text() for file in first]
        assert "stopped [rank 0]: " in said[0]
        assert "ranks 2, 3" in said[0]
        assert "rank 0 cannot be reached from rank 2 on machine1" in said[1]
        assert not (folder / "DONE").exists()
        machines[1].plug(True)
        second = [tmp_path / f"second{number}" for number in range(2)]
        with running(machines, words, second) as launchers:
            codes = [launcher.wait(timeout=400) for launcher in launchers]
        assert codes == [0, 0], second[0].read_text()
    assert_same(last_state(folder), last_state(untouched))
    assert logged(folder) == list(range(1, ITERATIONS + 1))
