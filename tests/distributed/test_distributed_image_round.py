"""Two processes describe, cluster and choose images as one does, bit for bit, also after one was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from selection.rounds import RoundFolder, RoundInfo
from selection.store import BoughtLabels
from tests.forked_runs import Value, run_forked
from tests.toy_active import SPACE, ArrayImages, DrawnImages, small_network
from tests.toy_training import WORLD
from trainers.domain_anchors import ClusterSettings, DomainAnchors
from trainers.image_round import ImageQuerySettings, ImageRound
from utils import distributed
from utils.distributed import World
from utils.stopping import never

WORKER = "tests.distributed.test_distributed_image_round"
IMAGES, COUNT = 9, 5  # two processes divide neither
FILES = (
    "anchors/cluster_centroids_full_3.pkl",
    "anchors/cluster_index_full_3.pkl",
    "anchors/source_vectors/vectors.npy",
    "anchors/scoring_vectors/vectors.npy",
    "anchors/scoring_vectors/entropies.npy",
    "selection_list/stage1_cac_list_5images.txt",
    "selection_list/stage1_cac_index_5images.txt",
    "selection_list/scores.csv",
    "anchors-of-ranks.pt",
)


def choose(run: Path, world: World, stop: Callable[[], bool] = never) -> bool:
    """Source anchors and the images that are chosen by them; False when it was stopped."""
    network = small_network()
    if not world.is_main:  # statistics that a rank has alone must not decide
        for buffer in network.buffers():
            buffer.add_(1)
    anchors = DomainAnchors(
        network=network,
        samples=DrawnImages(IMAGES, seed=0),
        labelled=True,
        fingerprint="source",
        clusters=ClusterSettings(
            domain="source",
            folder=run / "anchors",
            num_anchors=3,
            class_names=SPACE.class_names,
            allow_absent=True,
        ),
        world=world,
        num_workers=0,
        stop=stop,
    )
    samples = DrawnImages(IMAGES, seed=1)
    settings = ImageQuerySettings(
        budget=None, score="published", seed=0, network_input="", pictures=0, count=COUNT
    )
    images = ImageRound(
        network=network,
        images=ArrayImages(samples.images),
        settings=settings,
        samples=samples,
        source_anchors=anchors,
        folder=run / "anchors",
        list_folder=run / "selection_list",
        world=world,
        num_workers=0,
        stop=stop,
    )
    info = RoundInfo(
        number=0,
        iteration=0,
        method="mada",
        setting="image",
        label_radius=settings.label_radius,
        exclusion_radius=settings.exclusion_radius,
        budget="5images",
        rounds=1,
        class_space=SPACE.name,
        image_list=images.images.fingerprint,
        images=COUNT,
        seed=0,
    )
    queries = images.select(RoundFolder(run / "queries"), info, BoughtLabels())
    if queries is None:
        return False
    found = anchors()
    everywhere = distributed.all_gather_objects((found, queries.digest()))
    assert all(torch.equal(other, found) and digest == queries.digest() for other, digest in everywhere)
    if world.is_main:
        torch.save(found, run / "anchors-of-ranks.pt")
    return True


def main(argv: Sequence[str]) -> int:
    """Chooses in each of these folders, as one of several processes."""
    with distributed.session("cpu", timeout_s=120) as world:
        return 0 if all(choose(Path(run), world) for run in argv) else 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of one process, of two, and of one that was stopped twice before two went on."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {name: folder / name for name in ("one", "two", "stopped")}
    assert choose(paths["one"], WORLD)
    for images in (3, 8):  # in the source's description, then in the target's
        calls = iter(range(1000))
        assert not choose(paths["stopped"], WORLD, stop=lambda n=images, calls=calls: next(calls) >= n)
    words = [str(paths["two"]), str(paths["stopped"])]
    changes = [Value(f"trainers.{module}:PART_IMAGES", 2) for module in ("description", "image_round")]
    assert run_forked(WORKER, words, processes=2, changes=changes) == [0, 0]
    return paths


@pytest.mark.parametrize("which", ["two", "stopped"])
@pytest.mark.parametrize("file", FILES)
def test_files_are_those_of_one_process(runs: dict[str, Path], which: str, file: str) -> None:
    assert (runs[which] / file).read_bytes() == (runs["one"] / file).read_bytes()


@pytest.mark.parametrize("which", ["two", "stopped"])
def test_queries_are_those_of_one_process(runs: dict[str, Path], which: str) -> None:
    ours, theirs = (RoundFolder(runs[name] / "queries").queries() for name in (which, "one"))
    assert ours is not None
    assert theirs is not None
    assert len(theirs.images) == COUNT
    assert ours.digest() == theirs.digest()
