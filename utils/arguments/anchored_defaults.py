"""What the options come to with MADA where nobody gave them: the authors' released configuration."""

from __future__ import annotations

from typing import Any

# In place of the defaults of the other methods of active learning.
PUBLISHED: dict[str, Any] = {
    "network": "mada_v3plus",
    "backbone": "resnet101",
    "train_bn": True,
    "batch_norm": "sync",
    "optimizer": "sgd-plain",
    "learning_rate": 1e-4,
    "head_scale": 1.0,
    "weight_decay": 2e-4,
    "num_steps": 90_000,
    "batch_size": 4,
    "input_size": (1914, 1052),
    "input_size_target": (2048, 1024),
    "crop_size": (896, 512),
    "scale_range": (0.5, 1.5),
    "mirror": True,
    "random_mirror": True,
    "source_order": "shuffled",
    "budget": "5%",
    "precision": "fp32",
    "protocol": "mada",
    "save_pred_every": 1000,
    "evaluate_every": 1000,
}


def published_options() -> list[str]:
    """The same as options to type, such as `--crop-size 896,512`."""
    return [_option(name, value) for name, value in PUBLISHED.items()]


def _option(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    words = value if isinstance(value, tuple) else (value,)
    return f"{flag} {','.join(f'{word:g}' if isinstance(word, float) else str(word) for word in words)}"
