"""The pickled pair of tables as the reference writes it (formats/label_info_example.p)."""

from __future__ import annotations

import pickle
from pathlib import Path

from golden_files import golden_path

from data_loaders.statistics import read_label_info, write_label_info

FILE = "formats/label_info_example.p"


def test_the_table_is_read_as_it_was_written() -> None:
    path = golden_path("ripu", "formats/label_info_example.p")
    label_to_file, file_to_label = pickle.loads(path.read_bytes())
    info = read_label_info(path)
    assert info.label_to_file == label_to_file
    assert list(info.file_to_label.items()) == list(file_to_label.items())


def test_a_table_written_by_us_unpickles_to_the_same(tmp_path: Path) -> None:
    path = golden_path("ripu", FILE)
    write_label_info(tmp_path / "ours.p", read_label_info(path))
    assert pickle.loads((tmp_path / "ours.p").read_bytes()) == pickle.loads(path.read_bytes())
