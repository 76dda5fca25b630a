"""Strong augmentation of 512x512 crops: the dense 51x51 kernel and HSV images against ours."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Result, compare
from data_loaders.photometric import JitterFactors, blur_kernel_size, color_jitter, gaussian_blur
from utils.precision import exact_float32

IMAGES, SIDE = 2, 512
SIGMAS = (0.65, 1.15)  # the middle and the end of the published range
FACTORS = JitterFactors(order=(3, 0, 2, 1), brightness=1.1, contrast=0.9, saturation=1.15, hue=0.1)


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [result for device in devices for result in (_blur_on(device), _jitter_on(device))]


def _blur_on(device: str) -> Result:
    images = _images(device)
    with exact_float32():
        torch.testing.assert_close(gaussian_blur(images, SIGMAS), _dense_blur(images), rtol=0, atol=2e-6)
        return compare(
            f"Gaussian blur, {device}",
            lambda: _finished(_dense_blur(images)),
            lambda: _finished(gaussian_blur(images, SIGMAS)),
            repeats=3,
            note=f"{IMAGES} x 3 x {SIDE} x {SIDE}, kernel {blur_kernel_size(SIDE)}; aim 8x",
        )


def _jitter_on(device: str) -> Result:
    images = _images(device)

    def plain() -> Tensor:
        return torch.stack([_plain_jitter(image) for image in images])

    def ours() -> Tensor:
        return torch.stack([color_jitter(image, FACTORS) for image in images])

    torch.testing.assert_close(ours(), plain(), rtol=0, atol=1e-5)
    note = f"{IMAGES} x 3 x {SIDE} x {SIDE}, all four operations"
    return compare(
        f"colour jitter, {device}", lambda: _finished(plain()), lambda: _finished(ours()), note=note
    )


def _images(device: str) -> Tensor:
    """Smooth random colours with some noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 12, 12, generator=generator)
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=True)
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp_(0, 1).to(device)


def _finished(images: Tensor) -> float:
    return images.view(-1)[0].item()  # read back, so that a GPU's work is timed


def _dense_blur(images: Tensor) -> Tensor:
    """One two-dimensional convolution per image."""
    size = blur_kernel_size(SIDE)
    offsets = torch.arange(size) - size // 2
    blurred = []
    for image, sigma in zip(images, SIGMAS, strict=True):
        taps = torch.softmax(-0.5 * (offsets / sigma) ** 2, dim=0)
        kernel = torch.outer(taps, taps).expand(3, 1, size, size).to(images.device)
        padded = F.pad(image[None], (size // 2,) * 4, mode="reflect")
        blurred.append(F.conv2d(padded, kernel, groups=3))
    return torch.cat(blurred)


def _plain_jitter(image: Tensor) -> Tensor:
    """The operations in turn, saturation and hue with a whole HSV image each."""
    for number in FACTORS.order:
        if number == 0:
            image = (image + (FACTORS.brightness - 1)).clamp(0, 1)
        elif number == 1:
            image = (image * FACTORS.contrast).clamp(0, 1)
        else:
            hue, saturation, value = _to_hsv(image)
            if number == 2:
                saturation = (saturation * FACTORS.saturation).clamp(0, 1)
            else:
                hue = torch.fmod(hue + 2 * math.pi * FACTORS.hue, 2 * math.pi)
            image = _to_rgb(hue, saturation, value)
    return image


def _to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in [0, 2 pi), saturation and value in [0, 1], each (H, W)."""
    red, green, blue = image
    value, leader = image.max(dim=0)
    spread = value - image.min(dim=0).values
    divisor = torch.where(spread == 0, 1, spread)
    sectors = torch.stack([green - blue, 2 * divisor + blue - red, 4 * divisor + red - green]) / divisor
    hue = sectors.gather(0, leader[None])[0].remainder(6) * (math.pi / 3)
    return hue, spread / (value + 1e-6), value


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(3, H, W) from the six sectors of the hue."""
    position = (hue * (3 / math.pi)).remainder(6)
    sector = position.floor().long().clamp(0, 5)
    share = position - sector
    low = value * (1 - saturation)
    falling = value * (1 - share * saturation)
    rising = value * (1 - (1 - share) * saturation)
    red = torch.stack([value, falling, low, low, rising, value])
    green = torch.stack([rising, value, value, falling, low, low])
    blue = torch.stack([low, low, rising, value, value, falling])
    return torch.stack([channel.gather(0, sector[None])[0] for channel in (red, green, blue)])
