"""What of NVIDIA's apex can be used here, found by capability and never by `import apex` alone.

Two things of apex are used, both optional: its NHWC group normalisation and its fused optimizers. A plain
install of apex has neither (they are compiled extensions), and PyPI's `apex` is a web toolkit.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder

from utils.errors import UserError

FEATURES = {
    "fused_optimizer": "--fused-optimizer torch",
    "group_norm": "--group-norm-kernel torch",
}
"""Feature -> the option that does without it."""

_NVIDIA_SUMMARY = "PyTorch Extensions written by NVIDIA"
_BUILD = (
    "build it from github.com/NVIDIA/apex with APEX_CPP_EXT=1 APEX_CUDA_EXT=1 APEX_GROUP_NORM=1 "
    "pip install --no-build-isolation ."
)


@dataclass(frozen=True, slots=True)
class ApexStatus:
    """What was found; `message` says it in one line."""

    installed: bool
    genuine: bool
    has_fused_optimizers: bool
    has_group_norm: bool
    message: str

    def has(self, feature: str) -> bool:
        """Whether one of FEATURES can be used."""
        return self.has_fused_optimizers if feature == "fused_optimizer" else self.has_group_norm


def describe() -> ApexStatus:
    """Looks for apex; imports a part of it only when it is NVIDIA's."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return ApexStatus(False, False, False, False, "apex is not installed")
    if not _is_nvidias(spec):
        return ApexStatus(
            True, False, False, False, "the installed apex is not NVIDIA's (PyPI's apex is a web toolkit)"
        )
    fused, group_norm = _has_fused_optimizers(), _has_group_norm(spec)
    parts = [f"fused optimizers {'built' if fused else 'not built'}"]
    parts.append(f"group normalisation {'built' if group_norm else 'not built'}")
    return ApexStatus(True, True, fused, group_norm, f"NVIDIA apex: {', '.join(parts)}")


def require(feature: str) -> None:
    """Returns if the feature, a key of FEATURES, can be used.

    Raises:
        UserError: says what was found, how to get the feature, and which option does without it.
    """
    assert feature in FEATURES, feature
    status = describe()
    if status.has(feature):
        return
    first = "pip uninstall apex and " if status.installed and not status.genuine else ""
    asked = FEATURES[feature].replace("torch", "apex")
    raise UserError(f"{asked}: {status.message}; {first}{_BUILD}, or use {FEATURES[feature]}.")


def _is_nvidias(spec: ModuleSpec) -> bool:
    """Judged by the package's summary, or by a submodule that only NVIDIA's has, without importing either."""
    try:
        if importlib.metadata.metadata("apex").get("Summary") == _NVIDIA_SUMMARY:
            return True
    except importlib.metadata.PackageNotFoundError:
        pass  # a source checkout on the path has no metadata
    return _has_part(spec, "multi_tensor_apply")


def _has_part(spec: ModuleSpec, *names: str) -> bool:
    """Whether the package holds a (nested) submodule; looks at files only."""
    full_name = spec.name
    for name in names:
        full_name = f"{full_name}.{name}"
        found = PathFinder.find_spec(full_name, spec.submodule_search_locations)
        if found is None:
            return False
        spec = found
    return True


def _has_fused_optimizers() -> bool:
    """Whether the compiled kernels (amp_C) that all fused optimizers need can be loaded."""
    try:
        module = importlib.import_module("apex.multi_tensor_apply")
    except (ImportError, OSError, RuntimeError):  # also: built for another torch or CUDA
        return False
    return bool(module.multi_tensor_applier.available)


def _has_group_norm(spec: ModuleSpec) -> bool:
    """Whether the kernel is built; importing its Python part without the kernel would raise."""
    return importlib.util.find_spec("group_norm_cuda") is not None and _has_part(
        spec, "contrib", "group_norm"
    )
