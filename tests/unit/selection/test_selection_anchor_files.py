"""The original release's files: written, read back, and refused when they are damaged or of another run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from selection import anchor_files
from utils.errors import UserError

SHAPE = {"num_anchors": 3, "num_classes": 4, "channels": 5}
NAMES = [f"city/city_{number:06d}.png" for number in range(6)]


class Harmful:
    """A pickle of it calls a function when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def some_anchors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


def test_anchors_are_written_flat_and_read_in_shape(tmp_path: Path) -> None:
    path, anchors = tmp_path / "anchors" / "a.pkl", some_anchors()
    anchor_files.write_centroids(path, anchors)
    plain = torch.load(path, weights_only=False)
    assert (type(plain), plain.dtype, plain.shape) == (np.ndarray, np.float32, (60,))
    found = anchor_files.read_centroids(path, **SHAPE)
    np.testing.assert_array_equal(found, anchors)
    assert found.dtype == np.float32


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_anchors_in_their_shape_of_either_container_are_read(
    tmp_path: Path, dtype: type, legacy: bool
) -> None:
    path = tmp_path / "a.pkl"
    torch.save(some_anchors().astype(dtype), path, _use_new_zipfile_serialization=not legacy)
    np.testing.assert_array_equal(anchor_files.read_centroids(path, **SHAPE), some_anchors())


@pytest.mark.parametrize("other", [{"num_anchors": 2}, {"num_classes": 5}, {"channels": 6}])
def test_anchors_of_another_run_are_refused(tmp_path: Path, other: dict[str, int]) -> None:
    path = tmp_path / "a.pkl"
    anchor_files.write_centroids(path, some_anchors())
    with pytest.raises(UserError, match=r"a\.pkl have shape \(60,\), not \(.*give anchors of this network"):
        anchor_files.read_centroids(path, **{**SHAPE, **other})


def test_as_many_numbers_in_another_shape_are_refused(tmp_path: Path) -> None:
    torch.save(some_anchors().reshape(3, 5, 4), tmp_path / "a.pkl")
    with pytest.raises(UserError, match=r"have shape \(3, 5, 4\), not \(3, 4, 5\)"):
        anchor_files.read_centroids(tmp_path / "a.pkl", **SHAPE)


def test_anchors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    anchors = some_anchors()
    anchors[1, 2, 3] = np.nan
    anchor_files.write_centroids(tmp_path / "a.pkl", anchors)
    with pytest.raises(UserError, match=r"a\.pkl hold values that are not finite"):
        anchor_files.read_centroids(tmp_path / "a.pkl", **SHAPE)


def test_vectors_are_written_as_float64_and_read_as_float32(tmp_path: Path) -> None:
    path, vectors = tmp_path / "v.pkl", some_anchors()
    anchor_files.write_vectors(path, vectors)
    plain = torch.load(path, weights_only=False)
    assert (plain.dtype, plain.shape) == (np.float64, (3, 4, 5))
    found = anchor_files.read_vectors(path, num_classes=4, channels=5)
    np.testing.assert_array_equal(found, vectors)
    assert found.dtype == np.float32


@pytest.mark.parametrize("shape", [(60,), (3, 5, 5), (3, 4, 6)])
def test_vectors_of_another_network_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save(np.zeros(shape), tmp_path / "v.pkl")
    with pytest.raises(UserError, match=r"v\.pkl have shape .*, not \(images, 4, 5\)"):
        anchor_files.read_vectors(tmp_path / "v.pkl", num_classes=4, channels=5)


def test_clusters_are_a_list_of_int(tmp_path: Path) -> None:
    path = tmp_path / "c.pkl"
    anchor_files.write_clusters(path, np.array([2, 0, 1, 2], np.int8))
    assert torch.load(path, weights_only=True) == [2, 0, 1, 2]
    assert anchor_files.read_clusters(path, num_anchors=3).tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([0, 3], "name anchors 0 to 3, there are 0 to 2"),
        ([-1, 0], "name anchors -1 to 0"),
        ([], "not a list of whole numbers"),
        ([0.5], "not a list of whole numbers"),
        ([True], "not a list of whole numbers"),
        (7, "not a list of whole numbers"),
    ],
)
def test_other_content_is_no_clusters(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "c.pkl")
    with pytest.raises(UserError, match=message):
        anchor_files.read_clusters(tmp_path / "c.pkl", num_anchors=3)


READERS: list[Callable[[Path], object]] = [
    lambda path: anchor_files.read_centroids(path, **SHAPE),
    lambda path: anchor_files.read_clusters(path, num_anchors=3),
    lambda path: anchor_files.read_vectors(path, num_classes=4, channels=5),
]
WHAT = ["anchors", "clusters", "vectors"]


@pytest.mark.parametrize("read", READERS, ids=WHAT)
@pytest.mark.parametrize("kind", ["cut off", "empty", "text", "flipped legacy"])
def test_damaged_files_are_named(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    path = tmp_path / "x.pkl"
    torch.save(some_anchors(), path, _use_new_zipfile_serialization=kind != "flipped legacy")
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut off": content[: len(content) // 2],
            "empty": b"",
            "text": b"no such thing",
            "flipped legacy": content[:-20] + bytes(20),
        }[kind]
    )
    with pytest.raises(
        UserError, match=r"x\.pkl are damaged, or no file of torch\.save; copy or make"
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "Weights only" not in str(caught.value)


@pytest.mark.parametrize("read", READERS, ids=WHAT)
def test_missing_files_are_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"none\.pkl cannot be read: No such file.*make the file first"):
        read(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS, ids=WHAT)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in an array"])
def test_files_that_would_run_code_are_refused(
    tmp_path: Path, read: Callable[[Path], object], legacy: bool, inside: bool
) -> None:
    path, harmful = tmp_path / "x.pkl", Harmful(tmp_path / "was run")
    content = np.array([harmful], object) if inside else harmful
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"x\.pkl are refused: .* asks for .*(getattr|touch|ObjectDType)"):
        read(path)
    assert not (tmp_path / "was run").exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "was run"), protocol=2))
    with pytest.raises(UserError, match=r"x\.pkl are (refused|damaged)"):
        anchor_files.read_centroids(path, **SHAPE)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("content", [{"DeepLab": 1}, [1.0], np.zeros(60, np.int64), np.array([None])])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pkl")
    with pytest.raises(UserError, match=r"x\.pkl are (no float array|refused|damaged)"):
        anchor_files.read_centroids(tmp_path / "x.pkl", **SHAPE)


def test_the_allowed_names_are_forgotten_after_reading(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))  # in no fixed order
    anchor_files.write_centroids(tmp_path / "a.pkl", some_anchors())
    anchor_files.read_centroids(tmp_path / "a.pkl", **SHAPE)
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_published_names() -> None:
    assert anchor_files.centroids_name("source", 10) == "cluster_centroids_full_10.pkl"
    assert anchor_files.centroids_name("target", 10) == "cluster_centroids_full_target_10.pkl"
    assert anchor_files.clusters_name("source", 10) == "cluster_index_full_10.pkl"
    assert anchor_files.clusters_name("target", 4) == "cluster_index_full_target_4.pkl"
    assert anchor_files.vectors_name("source") == "full_dataset_objective_vectors.pkl"
    assert anchor_files.vectors_name("target") == "target_full_dataset_objective_vectors.pkl"
    assert anchor_files.list_name("0.05") == "stage1_cac_list_0.05.txt"
    assert anchor_files.positions_name("148images") == "stage1_cac_index_148images.txt"


class TestOurVectors:
    """The matrix that a run keeps in source_vectors/."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_are_read_as_float32(self, tmp_path: Path, dtype: type) -> None:
        np.save(tmp_path / "vectors.npy", some_anchors().astype(dtype))
        found = anchor_files.read_vectors(tmp_path / "vectors.npy", num_classes=4, channels=5)
        np.testing.assert_array_equal(found, some_anchors())
        assert found.dtype == np.float32

    def test_of_another_network_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "vectors.npy", some_anchors())
        with pytest.raises(UserError, match=r"vectors\.npy have shape \(3, 4, 5\), not \(images, 4, 6\)"):
            anchor_files.read_vectors(tmp_path / "vectors.npy", num_classes=4, channels=6)

    def test_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "vectors.npy", np.full((3, 4, 5), np.inf, np.float32))
        with pytest.raises(UserError, match=r"vectors\.npy hold values that are not finite"):
            anchor_files.read_vectors(tmp_path / "vectors.npy", num_classes=4, channels=5)

    @pytest.mark.parametrize("kind", ["cut off", "empty", "text", "a torch.save", "objects"])
    def test_that_are_damaged_are_named(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "vectors.npy"
        if kind == "objects":
            np.save(path, np.array([Harmful(tmp_path / "was run")]), allow_pickle=True)
        elif kind == "a torch.save":
            torch.save([1, 2], path)
        else:
            np.save(path, some_anchors())
            content = path.read_bytes()
            path.write_bytes({"cut off": content[:-7], "empty": b"", "text": b"no such thing"}[kind])
        with pytest.raises(
            UserError, match=r"vectors\.npy are (damaged, or no array of numpy|no float array)"
        ):
            anchor_files.read_vectors(path, num_classes=4, channels=5)
        assert not (tmp_path / "was run").exists()

    def test_that_are_missing_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"none\.npy cannot be read: No such file"):
            anchor_files.read_vectors(tmp_path / "none.npy", num_classes=4, channels=5)


class TestFolders:
    """A run's folder in place of a file in it."""

    FIND: ClassVar[dict[str, tuple[Callable[[Path], Path], list[str]]]] = {
        "anchors": (
            lambda path: anchor_files.find_centroids(path, "target", 4),
            ["cluster_centroids_full_target_4.pkl", "anchors/cluster_centroids_full_target_4.pkl"],
        ),
        "vectors": (
            anchor_files.find_vectors,
            [
                "vectors.npy",
                "source_vectors/vectors.npy",
                "full_dataset_objective_vectors.pkl",
                "anchors/source_vectors/vectors.npy",
                "anchors/full_dataset_objective_vectors.pkl",
            ],
        ),
        "list": (
            anchor_files.find_list,
            ["stage1_cac_list_0.05.txt", "selection_list/stage1_cac_list_3images.txt"],
        ),
    }

    @staticmethod
    def touch(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    @pytest.mark.parametrize("kind", FIND)
    def test_hold_the_file(self, tmp_path: Path, kind: str) -> None:
        find, places = self.FIND[kind]
        for place in reversed(places):  # the first is preferred
            path = self.touch(tmp_path / place)
            assert find(tmp_path) == path
            assert find(path) == path

    @pytest.mark.parametrize("kind", FIND)
    def test_without_the_file_are_named(self, tmp_path: Path, kind: str) -> None:
        find, places = self.FIND[kind]
        self.touch(tmp_path / "cluster_centroids_full_4.pkl")  # of the other domain
        self.touch(tmp_path / "anchors" / "cluster_centroids_full_target_10.pkl")
        with pytest.raises(UserError, match=rf"folder {tmp_path} holds none of .*; name the file") as caught:
            find(tmp_path)
        name = places[0] if kind != "list" else "stage1_cac_list_*.txt"
        assert name in str(caught.value)

    def test_with_several_lists_are_refused(self, tmp_path: Path) -> None:
        for extent in ("0.05", "3images"):
            self.touch(tmp_path / "selection_list" / f"stage1_cac_list_{extent}.txt")
        both = r"\(selection_list/stage1_cac_list_0.05.txt, selection_list/stage1_cac_list_3images.txt\)"
        with pytest.raises(UserError, match=rf"holds several such files {both}; name one"):
            anchor_files.find_list(tmp_path)

    def test_a_file_that_is_missing_is_left_to_its_reader(self, tmp_path: Path) -> None:
        assert anchor_files.find_list(tmp_path / "none.txt") == tmp_path / "none.txt"


def test_lists_are_a_name_per_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    anchor_files.write_list(path, [NAMES[1], NAMES[4]])
    assert path.read_text() == f"{NAMES[1]}\n{NAMES[4]}\n"
    assert anchor_files.read_list(path, NAMES).tolist() == [1, 4]


def test_positions_are_a_number_per_line(tmp_path: Path) -> None:
    path = tmp_path / "index.txt"
    anchor_files.write_positions(path, np.array([0, 5]))
    assert path.read_text() == "0\n5\n"
    assert anchor_files.read_positions(path, 6).tolist() == [0, 5]


def test_lists_may_be_unsorted_and_from_windows(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(f"\ufeff{NAMES[4]}\r\n{NAMES[1]}".encode())
    assert anchor_files.read_list(path, NAMES).tolist() == [1, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (f"{NAMES[0]}\n\n{NAMES[1]}\n", "line 2 is blank; remove it"),
        (f"{NAMES[0]}\n\n", "line 2 is blank"),
        (f"{NAMES[0]}\n{NAMES[1]}\n{NAMES[0]}\n", "twice, in lines 1 and 3; remove one"),
        (f"{NAMES[0]}\nparis/x.png\n", "line 2: 'paris/x.png' is none of the 6 images"),
    ],
)
def test_lists_that_are_wrong_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        anchor_files.read_list(path, NAMES)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("line", ["6", "-1", "1.0", "one", "01", "9" * 30, "\u0661"])
def test_what_is_no_position_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "index.txt"
    path.write_text(f"0\n{line}\n")
    with pytest.raises(UserError, match=r"index\.txt, line 2: .* is no position 0 to 5"):
        anchor_files.read_positions(path, 6)


def test_lists_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file or directory; select the images first"):
        anchor_files.read_list(tmp_path / "none.txt", NAMES)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not text"):
        anchor_files.read_list(tmp_path / "bytes.txt", NAMES)


def test_the_remaining_images() -> None:
    assert anchor_files.remaining_positions(5, np.array([3, 0])).tolist() == [1, 2, 4]
    assert anchor_files.remaining_positions(2, np.array([], np.int64)).tolist() == [0, 1]
