"""Damages, hostile contents and foreign files: what a loader may meet in place of its own file."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

Damage = Callable[[bytes, random.Random], bytes]
VALUES = (None, True, -1, 10**30, 1.5, float("nan"), "x", "", [], {}, [[]], {"a": {}}, "\0", "../../x")


class Hostile:
    """Its pickle makes a folder when it is read carelessly."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def hostile_files(trace: Path) -> list[bytes]:
    """Files that run code when they are read carelessly: pickles, torch's two formats, numpy's two."""
    found = [pickle.dumps(Hostile(trace), protocol) for protocol in (0, 2, 4)]
    for zipped in (True, False):
        for content in (Hostile(trace), {"format_version": 1, "network": Hostile(trace)}):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found.append(file.getvalue())
    array = np.array([Hostile(trace)], dtype=object)
    for save in (np.save, np.savez_compressed):
        file = io.BytesIO()
        save(file, array)
        found.append(file.getvalue())
    return found


def cut_off(content: bytes, drawn: random.Random) -> bytes:
    """The end is missing."""
    return content[: drawn.randrange(len(content))]


def flip_bits(content: bytes, drawn: random.Random) -> bytes:
    """Up to 16 bits are others, most often near the beginning or the end."""
    changed = bytearray(content)
    for _ in range(drawn.choice((1, 2, 16))):
        place = drawn.choice((len(content), min(200, len(content)), -min(400, len(content))))
        changed[drawn.randrange(place) if place > 0 else drawn.randrange(place, 0)] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, drawn: random.Random) -> bytes:
    """A piece is zeros or noise."""
    start = drawn.randrange(len(content))
    length = min(len(content) - start, drawn.choice((1, 8, 64, 4096)))
    piece = bytes(length) if drawn.random() < 0.5 else drawn.randbytes(length)
    return content[:start] + piece + content[start + length :]


def move(content: bytes, drawn: random.Random) -> bytes:
    """A piece is there twice, or not at all."""
    start, end = sorted(drawn.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:] if drawn.random() < 0.5 else content[:start] + content[end:]


def noise(content: bytes, drawn: random.Random) -> bytes:
    """Something else altogether, perhaps behind the right first bytes."""
    return content[: drawn.choice((0, 2, 8, 64))] + drawn.randbytes(drawn.choice((0, 1, 10, 1000)))


def repack(content: bytes, drawn: random.Random) -> bytes:
    """A member of an archive is damaged, renamed or gone, and the check sums are right; else `flip_bits`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError):
        return flip_bits(content, drawn)
    chosen = drawn.randrange(len(members))
    name, data = members[chosen]
    change = drawn.choice(("bytes", "bytes", "bytes", "name", "gone", "empty"))
    if change == "gone":
        del members[chosen]
    elif change == "name":
        members[chosen] = (drawn.choice((name + "x", "../" + name, "a/b/data.pkl")), data)
    elif change == "empty" or not data:
        members[chosen] = (name, b"")
    else:
        members[chosen] = (name, drawn.choice((flip_bits, overwrite, cut_off, move))(data, drawn))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def restructure(content: bytes, drawn: random.Random) -> bytes:
    """A well-formed file whose content is of another shape: keys gone, values of other kinds; else `move`."""
    try:
        value = json.loads(content)
        return json.dumps(_other(value, drawn)).encode()
    except (ValueError, RecursionError):
        pass
    try:
        value = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return move(content, drawn)
    file = io.BytesIO()
    torch.save(_other(value, drawn), file)
    return file.getvalue()


def _other(value: object, drawn: random.Random) -> object:
    """The value with one thing somewhere in it gone or replaced."""
    if isinstance(value, dict) and value and drawn.random() < 0.9:
        changed = dict(value)
        key = drawn.choice(sorted(changed, key=str))
        if drawn.random() < 0.3:
            del changed[key]
        else:
            changed[key] = _other(changed[key], drawn)
        return changed
    if isinstance(value, list) and value and drawn.random() < 0.8:
        place = drawn.randrange(len(value))
        return [*value[:place], _other(value[place], drawn), *value[place + 1 :]]
    if isinstance(value, torch.Tensor) and drawn.random() < 0.7:
        return drawn.choice((value.double(), value.flatten()[:1], value.unsqueeze(0), value.bool()))
    return drawn.choice(VALUES)


DAMAGES: Sequence[Damage] = (
    cut_off,
    flip_bits,
    overwrite,
    move,
    noise,
    repack,
    repack,
    restructure,
    restructure,
)
