"""The demo city: official formats, all classes, reproducible pictures, no mixing of folders."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_loaders.demo_city import draw_demo_city
from data_loaders.demo_city.camera import NEAR, Camera, clip_near
from data_loaders.demo_city.ids import EVALUATED, Id, cityscapes_palette, cityscapes_table, synthia_table
from data_loaders.demo_city.pictures import WANTED_CYCLE, draw_picture
from utils.errors import UserError

SIZE = (96, 48)
CITYSCAPES_IDS = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
VOID_IDS = {0, 1, 3, 4, 5}


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small city with all three domains."""
    root = tmp_path_factory.mktemp("demo") / "city"
    draw_demo_city(root, size=SIZE, train=16, val=8, domains=("game", "camera", "synthia"))
    return root


def read_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_game_is_written_as_gta5(city: Path) -> None:
    names = [f"{i:05d}.png" for i in range(1, 17)]
    assert [p.name for p in sorted((city / "gta5/images").iterdir())] == names
    assert [p.name for p in sorted((city / "gta5/labels").iterdir())] == names
    with Image.open(city / "gta5/images/00001.png") as image:
        assert (image.mode, image.size) == ("RGB", SIZE)
    with Image.open(city / "gta5/labels/00001.png") as label:
        assert (label.mode, label.size) == ("P", SIZE)
        assert label.getpalette()[3 * 7 : 3 * 8] == [128, 64, 128]
        assert set(np.unique(np.asarray(label)).tolist()) <= CITYSCAPES_IDS | VOID_IDS


@pytest.mark.parametrize(("split", "count"), [("train", 16), ("val", 8)])
def test_the_camera_is_written_as_cityscapes(city: Path, split: str, count: int) -> None:
    images = sorted((city / "cityscapes/leftImg8bit" / split).rglob("*.png"))
    assert len(images) == count
    assert len({p.parent.name for p in images}) > 1
    for image in images:
        name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        assert image.name.split("_")[0] == image.parent.name
        assert len(image.name.split("_")) == 4
        with Image.open(city / "cityscapes/gtFine" / split / image.parent.name / name) as label:
            assert (label.mode, label.size) == ("L", SIZE)
            assert set(np.unique(np.asarray(label)).tolist()) <= CITYSCAPES_IDS | VOID_IDS
        with Image.open(image) as picture:
            assert (picture.mode, picture.size) == ("RGB", SIZE)


def test_no_city_is_in_both_splits(city: Path) -> None:
    train, val = (
        {p.name for p in (city / "cityscapes/gtFine" / split).iterdir()} for split in ("train", "val")
    )
    assert not train & val


def test_synthia_labels_are_16_bit_with_class_and_instance(city: Path) -> None:
    assert (city / "synthia/RGB/0000000.png").exists()
    label = cv2.imread(str(city / "synthia/GT/LABELS/0000003.png"), cv2.IMREAD_UNCHANGED)
    assert (label.dtype, label.shape) == (np.uint16, (SIZE[1], SIZE[0], 3))
    classes, instances = label[..., 2], label[..., 1]
    assert set(np.unique(classes).tolist()) <= set(range(13)) | set(range(15, 23))
    assert {1, 2, 3, 22} <= set(np.unique(classes).tolist())  # sky, building, road, lane marking
    assert (instances[np.isin(classes, (1, 2, 3, 4))] == 0).all()
    assert instances.max() >= 1


def test_all_classes_occur_in_each_split(city: Path) -> None:
    folders = ["gta5/labels", "cityscapes/gtFine/train", "cityscapes/gtFine/val"]
    for folder in folders:
        found: set[int] = set()
        for path in (city / folder).rglob("*.png"):
            with Image.open(path) as label:
                found |= set(np.unique(np.asarray(label)).tolist())
        assert found >= CITYSCAPES_IDS, f"{folder} lacks {CITYSCAPES_IDS - found}"


def test_the_camera_has_void_regions_that_training_ignores(city: Path) -> None:
    paths = (city / "cityscapes/gtFine").rglob("*.png")
    found = {int(i) for path in paths for i in np.unique(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))}
    assert {Id.EGO_VEHICLE, Id.OUT_OF_ROI} <= found


@pytest.mark.parametrize("domain", ["game", "camera"])
@pytest.mark.parametrize("entry", range(len(WANTED_CYCLE)))
def test_each_image_shows_the_classes_that_its_number_asks_for(domain: str, entry: int) -> None:
    _, label = draw_picture(3, domain, entry, (128, 64))
    assert set(WANTED_CYCLE[entry]) <= set(np.unique(label).tolist())


def test_rare_classes_are_in_every_eighth_image_or_more() -> None:
    rare = set(EVALUATED) - {Id.ROAD, Id.SIDEWALK, Id.BUILDING, Id.VEGETATION, Id.SKY}
    assert rare == {label for entry in WANTED_CYCLE for label in entry}


def test_pictures_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        draw_demo_city(tmp_path / str(workers), seed=5, size=(64, 32), train=5, val=2, workers=workers)
    assert read_files(tmp_path / "1") == read_files(tmp_path / "2")


def test_more_training_images_leave_the_others_as_they_are(tmp_path: Path) -> None:
    for train in (2, 4):
        draw_demo_city(tmp_path / str(train), size=(64, 32), train=train, val=2)
    few, many = read_files(tmp_path / "2"), read_files(tmp_path / "4")
    few.pop("demo_city.json")
    assert {name: many[name] for name in few} == few


def test_another_seed_gives_other_pictures() -> None:
    first, second = (draw_picture(seed, "game", 0, SIZE)[0] for seed in (0, 1))
    assert (first != second).mean() > 0.5


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (37, 23)])
def test_any_size_is_drawn(size: tuple[int, int]) -> None:
    picture, label = draw_picture(0, "camera", 1, size)
    assert picture.shape == (size[1], size[0], 3)
    assert label.shape == (size[1], size[0])
    assert (picture.dtype, label.dtype) == (np.uint8, np.uint8)


def test_the_domains_differ_in_colour_and_noise(city: Path) -> None:
    def statistics(folder: str) -> tuple[float, float]:
        saturation, contrast = [], []
        for path in (city / folder).rglob("*.png"):
            picture = cv2.imread(str(path)).astype(np.float32)
            saturation.append((picture.max(axis=2) - picture.min(axis=2)).mean())
            contrast.append(picture.mean(axis=2).std())
        return float(np.mean(saturation)), float(np.mean(contrast))

    game, camera = statistics("gta5/images"), statistics("cityscapes/leftImg8bit/train")
    assert game[0] > 1.4 * camera[0]
    assert game[1] > 1.1 * camera[1]


def test_a_finished_city_is_not_drawn_again(city: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in city.rglob("*.png")}
    calls: list[tuple[int, int]] = []
    arguments = {"size": SIZE, "train": 16, "val": 8, "domains": ("camera", "synthia", "game")}
    draw_demo_city(city, **arguments, progress=lambda done, total: calls.append((done, total)))
    assert calls == []
    assert {p: p.stat().st_mtime_ns for p in city.rglob("*.png")} == before


def test_an_interrupted_city_is_completed(tmp_path: Path) -> None:
    arguments = {"size": (64, 32), "train": 4, "val": 2}
    draw_demo_city(tmp_path / "whole", **arguments)

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_demo_city(tmp_path / "city", **arguments, progress=interrupt)
    assert not (tmp_path / "city/demo_city.json").exists()
    calls: list[tuple[int, int]] = []
    draw_demo_city(tmp_path / "city", **arguments, progress=lambda *call: calls.append(call))
    assert calls[0] == (4, 10)
    assert calls[-1] == (10, 10)
    assert read_files(tmp_path / "city") == read_files(tmp_path / "whole")


def test_another_city_in_the_folder_is_refused(city: Path) -> None:
    before = read_files(city)
    with pytest.raises(UserError, match="seed 0 instead of 9"):
        draw_demo_city(city, seed=9, size=SIZE, train=16, val=8, domains=("game", "camera", "synthia"))
    assert read_files(city) == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        draw_demo_city(tmp_path, size=(64, 32), train=1, val=0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_foreign_picture_among_ours_is_refused(tmp_path: Path) -> None:
    arguments = {"size": (64, 32), "train": 1, "val": 0}
    draw_demo_city(tmp_path / "city", **arguments)
    (tmp_path / "city/gta5/images/99999.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"99999\.png"):
        draw_demo_city(tmp_path / "city", **arguments)


def test_other_files_beside_the_pictures_are_allowed(tmp_path: Path) -> None:
    arguments = {"size": (64, 32), "train": 1, "val": 0}
    draw_demo_city(tmp_path / "city", **arguments)
    (tmp_path / "city/gta5/sample_class_stats.json").write_text("{}")
    draw_demo_city(tmp_path / "city", **arguments)


def test_the_parameters_are_written_down(city: Path) -> None:
    parameters = json.loads((city / "demo_city.json").read_text())
    assert parameters["size"] == list(SIZE)
    assert parameters["domains"] == ["camera", "game", "synthia"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"domains": ("game", "film")},
        {"domains": ()},
        {"size": (8, 64)},
        {"seed": -1},
        {"train": 0},
        {"workers": 0},
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="demo city"):
        draw_demo_city(tmp_path / "city", **{"size": (64, 32), "train": 1, "val": 1, **wrong})
    assert not (tmp_path / "city").exists()


def test_label_tables_follow_the_published_ids() -> None:
    assert cityscapes_table()[Id.LANE_MARKING] == 7
    assert (cityscapes_table()[:34] == np.arange(34)).all()
    synthia = synthia_table()
    assert [synthia[i] for i in (Id.SKY, Id.ROAD, Id.PERSON, Id.RIDER, Id.WALL, Id.STATIC)] == [
        1,
        3,
        10,
        17,
        21,
        0,
    ]
    assert cityscapes_palette()[3 * 33 : 3 * 34] == [119, 11, 32]


def test_a_point_on_the_ground_projects_back_to_itself() -> None:
    camera = Camera(width=256, height=128, focal=200.0, horizon=55.0, eye=1.4, yaw=0.05, bend=2e-4)
    point = np.array([2.0, 0.0, 12.0])
    column, row = camera.project(point)
    assert camera.project_point(*point) == pytest.approx((column, row))
    x, z = camera.ground(np.float32([[row]]), np.float32([column]))
    assert (x.item(), z.item()) == pytest.approx((2.0, 12.0), rel=1e-4)


def test_clipping_keeps_the_part_of_a_polygon_ahead_of_the_camera() -> None:
    clipped = clip_near(np.array([[0.0, 0, -2], [1, 0, -2], [1, 0, 4], [0, 0, 4]]))
    assert clipped[:, 2].min() == pytest.approx(NEAR)
    assert len(clipped) == 4
    assert clip_near(np.array([[0.0, 0, -2], [1, 0, -2], [1, 0, -1]])).shape == (0, 3)
