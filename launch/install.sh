#!/usr/bin/env bash
# Makes the virtual environment $1 and installs the project's dependencies into it.
set -euo pipefail
venv=${1:?usage: install.sh VENV_FOLDER}
python=${BASE_PYTHON:-python3}

if command -v uv >/dev/null 2>&1; then
    uv venv --allow-existing "$venv"
    install() { uv pip install --python "$venv/bin/python" "$@"; }
    uninstall() { uv pip uninstall --python "$venv/bin/python" "$@"; }
else
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "SegAdapt needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set BASE_PYTHON=/path/to/python3.11." >&2
        exit 2
    }
    "$python" -m venv "$venv"
    install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    uninstall() { "$venv/bin/python" -m pip uninstall --quiet --yes "$@"; }
fi

echo "installing dependencies into $venv (PyTorch is large: a few minutes on a slow link)"
install --editable ".[dev]"

# opencv-python links to libGL, which many containers lack; the headless wheel is the same library without windows.
if ! "$venv/bin/python" -c 'import cv2' 2>/dev/null; then
    echo "opencv-python does not load here (no libGL?): using opencv-python-headless"
    uninstall opencv-python
    install opencv-python-headless
    "$venv/bin/python" -c 'import cv2'
fi
"$venv/bin/python" -c 'import torch, torchvision; print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, GPUs: {torch.cuda.device_count()}")'
touch "$venv/.installed"
