"""apex is judged by what it can do; every state is played with small packages on the import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from utils import apex_support
from utils.errors import UserError

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Writes modules ("apex/__init__": source) and the metadata's summary where they can be imported."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "group_norm_cuda")]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def write(modules: dict[str, str], *, summary: str | None = None) -> None:
        for name, source in modules.items():
            file = tmp_path / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        if summary is not None:
            (tmp_path / "apex-0.1.dist-info").mkdir()
            metadata = f"Metadata-Version: 2.1\nName: apex\nVersion: 0.1\nSummary: {summary}\n"
            (tmp_path / "apex-0.1.dist-info" / "METADATA").write_text(metadata)
        forget()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    forget()


NVIDIA = "PyTorch Extensions written by NVIDIA"
EXPLODING = "raise RuntimeError('imported without need')\n"


def applier(available: bool) -> str:
    """The module that says whether the fused kernels are there."""
    return f"class Applier:\n    available = {available}\nmulti_tensor_applier = Applier()\n"


def genuine(*, fused: bool, group_norm: bool) -> dict[str, str]:
    """NVIDIA's package with the given kernels built; the Python parts are always there."""
    modules = {
        "apex/__init__": "",
        "apex/multi_tensor_apply/__init__": applier(fused),
        "apex/contrib/__init__": "",
        "apex/contrib/group_norm/__init__": "import group_norm_cuda\n",
    }
    return modules | ({"group_norm_cuda": EXPLODING} if group_norm else {})


def test_without_apex_both_features_are_refused_with_the_way_out(install: Install) -> None:
    install({})
    status = apex_support.describe()
    assert (status.installed, status.genuine) == (False, False)
    with pytest.raises(
        UserError, match=r"--fused-optimizer apex: apex is not installed; .*--fused-optimizer torch"
    ):
        apex_support.require("fused_optimizer")
    with pytest.raises(UserError, match=r"--group-norm-kernel apex: .*--group-norm-kernel torch"):
        apex_support.require("group_norm")


def test_the_web_toolkit_of_the_same_name_is_refused_without_importing_it(install: Install) -> None:
    install({"apex/__init__": EXPLODING}, summary="Pyramid toolkit")
    status = apex_support.describe()
    assert (status.installed, status.genuine, status.has_fused_optimizers) == (True, False, False)
    with pytest.raises(UserError, match=r"is not NVIDIA's .*pip uninstall apex"):
        apex_support.require("group_norm")


@pytest.mark.parametrize("summary", [NVIDIA, None], ids=["installed", "source_checkout"])
def test_a_python_only_build_has_neither_feature(install: Install, summary: str | None) -> None:
    install(genuine(fused=False, group_norm=False), summary=summary)
    status = apex_support.describe()
    assert (status.genuine, status.has_fused_optimizers, status.has_group_norm) == (True, False, False)
    with pytest.raises(UserError, match="fused optimizers not built") as caught:
        apex_support.require("fused_optimizer")
    assert "uninstall" not in str(caught.value)


@pytest.mark.parametrize(("fused", "group_norm"), [(True, False), (False, True), (True, True)])
def test_each_feature_counts_on_its_own(install: Install, fused: bool, group_norm: bool) -> None:
    install(genuine(fused=fused, group_norm=group_norm), summary=NVIDIA)
    status = apex_support.describe()
    assert (status.has_fused_optimizers, status.has_group_norm) == (fused, group_norm)
    for feature, available in (("fused_optimizer", fused), ("group_norm", group_norm)):
        if available:
            apex_support.require(feature)
        else:
            with pytest.raises(UserError, match="not built"):
                apex_support.require(feature)


def test_kernels_without_their_python_part_do_not_count(install: Install) -> None:
    install({"apex/__init__": "", "apex/multi_tensor_apply/__init__": applier(True), "group_norm_cuda": ""})
    assert not apex_support.describe().has_group_norm


def test_kernels_that_do_not_load_count_as_not_built(install: Install) -> None:
    broken = "raise ImportError('libc10.so: undefined symbol')\n"
    install({"apex/__init__": "", "apex/multi_tensor_apply/__init__": broken}, summary=NVIDIA)
    assert not apex_support.describe().has_fused_optimizers
