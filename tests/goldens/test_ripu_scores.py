"""RIPU's acquisition scores (scores.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_json, load_npz
from json_cases import json_cases

from selection.scores import pixel_scores, region_scores

FILE = "scores"
ATOL = {"RA": 3e-6, "PA": 5e-5}  # float32 window sums, in any order
SCORES = {"RA": region_scores, "PA": pixel_scores}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", json_cases("ripu", f"{FILE}.json"))
def test_scores_and_predictions_equal_the_reference(case: str, dtype: torch.dtype) -> None:
    given = load_json("ripu", f"{FILE}.json")[case]
    golden = load_npz("ripu", f"{FILE}.npz")
    drawn = np.random.default_rng(given["seed"]).standard_normal((given["num_classes"], *given["net"]))
    logits = (drawn * given["scale"]).astype(np.float32)
    assert logits.sum(dtype=np.float64) == pytest.approx(given["net_sum"], abs=1e-6)

    maps = SCORES[given["mode"]](
        torch.from_numpy(logits).to(dtype),
        size=(given["H"], given["W"]),
        network_input=tuple(given["net"]),
        radius=given["k"],
    )
    assert np.array_equal(maps.prediction.numpy(), golden[f"{case}/pred"])
    for name in ("score", "impurity", "uncertainty"):
        expected = golden[f"{case}/{name}"]
        result = getattr(maps, name).numpy()
        assert result.dtype == np.dtype(str(dtype).removeprefix("torch."))
        np.testing.assert_allclose(result, expected, rtol=0, atol=ATOL[given["mode"]], err_msg=name)
