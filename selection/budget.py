"""How much may be bought: the typed budget, the picks it means per image and round, its price for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

import numpy as np

from utils.errors import UserError

Unit = Literal["percent", "pixels", "images"]

_SUFFIXES: dict[str, Unit] = {"%": "percent", "px": "pixels", "images": "images"}
_FORMS = "write a share like 2.2%, pixels per image like 40px, or whole images like 148images"

# An assumption, to be replaced by a measured figure: pointing at an object takes people about 2.4 s (Bearman
# et al., "What's the Point", ECCV 2016). A query gives the place, but the place must be found in a crop,
# judged from a few pixels and answered with one of many classes, so we take twice that.
SECONDS_PER_DECISION = 5.0
# Fine annotation of one Cityscapes image, with quality control (Cordts et al., CVPR 2016: more than 1.5 h).
WHOLE_IMAGE_HOURS = 1.5


@dataclass(frozen=True, slots=True)
class Budget:
    """What is bought of the target images, over all rounds.

    Attributes:
        amount: percent of the pixels of each image; or pixels per image, meant at the training size; or a
            number of whole images.
        unit: which of these.
    """

    amount: float
    unit: Unit

    def __post_init__(self) -> None:
        assert self.unit in get_args(Unit)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The budget that "2.2%", "40px" or "148images" names.

        Raises:
            UserError: another unit, no number, not above 0, above 100 %, or a fraction of a pixel or image.
        """
        word = text.strip()
        suffix = next((suffix for suffix in _SUFFIXES if word.endswith(suffix)), None)
        if suffix is None:
            raise UserError(f"--budget {text!r} has no known unit; {_FORMS}")
        try:
            amount = float(Decimal(word.removesuffix(suffix).strip()))
        except InvalidOperation:
            amount = math.nan
        if not math.isfinite(amount):
            raise UserError(f"--budget {text!r} does not begin with a number; {_FORMS}")
        if amount <= 0:
            raise UserError(f"--budget {text!r} buys nothing; give an amount above 0")
        if suffix == "%" and amount > 100:
            raise UserError(f"--budget {text!r} is more than the whole images; give at most 100%")
        if suffix != "%" and not amount.is_integer():
            raise UserError(f"--budget {text!r} is not a whole number of {_SUFFIXES[suffix]}; {_FORMS}")
        return cls(amount, _SUFFIXES[suffix])

    def __str__(self) -> str:
        """As `parse` reads it."""
        suffix = next(suffix for suffix, unit in _SUFFIXES.items() if unit == self.unit)
        number = int(self.amount) if float(self.amount).is_integer() else repr(float(self.amount))
        return f"{number}{suffix}"

    def picks_per_round(
        self, size: tuple[int, int], *, label_radius: int, rounds: int, training_size: tuple[int, int]
    ) -> int:
        """Picks in one image in one of `rounds` equal rounds, rounded up; nothing is carried over.

        Args:
            size: (H, W) of the image.
            label_radius: of the square that is bought around a pick; 0: the pixel alone.
            rounds: of the whole run.
            training_size: (W, H) that images are trained at. A budget in pixels is meant there: an image of
                another size gets as many more as it has more pixels.

        Raises:
            UserError: the budget counts whole images.

        Source: the authors' released code (Xie et al., CVPR 2022), where a share is evaluated in float32 and
        a number of pixels in float64; `tests/goldens/test_ripu_budgets.py`.
        """
        assert rounds > 0
        self._check_unit()
        pixels = size[0] * size[1]
        square = (2 * label_radius + 1) ** 2
        if self.unit == "pixels":
            area = training_size[0] * training_size[1]
            return math.ceil(self.amount / rounds / area * pixels / square)
        share = float(Decimal(repr(float(self.amount))) / 100)  # 2.2 / 100 is not quite 0.022 in binary
        return math.ceil(np.float32(pixels) * np.float32(share / rounds) / np.float32(square))

    def check_fits(
        self,
        size: tuple[int, int],
        *,
        label_radius: int,
        rounds: int,
        training_size: tuple[int, int],
        exclusion_radius: int = 0,
    ) -> None:
        """Refuses a budget or a square that the image cannot hold; arguments as for `picks_per_round`.

        That picks are rounded up in each round is no reason.

        Args:
            exclusion_radius: no two picks lie within this Chebyshev distance.

        Raises:
            UserError: the budget counts whole images, all picks together have more pixels than the image or
                need more room, or the square around any pick would be the whole image and more.
        """
        height, width = size
        radius = max(label_radius, exclusion_radius if label_radius == 0 else 0)
        if radius >= max(size):
            raise UserError(
                f"--radius {radius} is larger than an image of {width}x{height} pixels; "
                f"give at most {max(size) - 1}"
            )
        picks = self.picks_per_round(
            size, label_radius=label_radius, rounds=rounds, training_size=training_size
        )
        side = 2 * label_radius + 1
        if (picks - 1) * rounds * side**2 > height * width:
            raise UserError(
                f"--budget {self} is {picks * rounds} picks of {side}x{side} pixels per image, which is more "
                f"than an image of {width}x{height} pixels can hold; give less"
            )
        apart = exclusion_radius + 1
        room = math.ceil(height / apart) * math.ceil(width / apart)
        if (picks - 1) * rounds > room:
            raise UserError(
                f"--budget {self} is {picks * rounds} picks per image, but at most {room} that are {apart} "
                f"pixels apart fit into one of {width}x{height}; give less, or a smaller --radius"
            )

    def whole_images(self, total: int) -> int:
        """How many of `total` images are bought, over all rounds; a share is rounded down.

        Raises:
            UserError: less than one image, more than there are, or a budget in pixels.

        Source: the authors' released code (Ning et al., ICCV 2021) takes int(0.05 * images); other shares are
        exact here, 29% of 100 images are 29; `tests/goldens/test_mada_selection.py`.
        """
        if self.unit == "pixels":
            raise UserError(
                f"--budget {self} buys pixels of every image, this method buys whole images; "
                "give a share like 5% or a number like 148images"
            )
        if self.unit == "percent" and not 0 < self.amount <= 100:
            raise UserError(f"--budget {self} is no share of the images; give more than 0% and at most 100%")
        share = Decimal(repr(float(self.amount)))
        count = int(share * total / 100 if self.unit == "percent" else share)
        if count < 1:
            raise UserError(f"--budget {self} of {total} images is less than one image; give 1images or more")
        if count > total:
            raise UserError(f"--budget {self} is more than the {total} images there are; give at most 100%")
        return count

    def _check_unit(self) -> None:
        if self.unit == "images":
            raise UserError(
                f"--budget {self} buys whole images, this method buys parts of every image; "
                "give a share like 2.2% or pixels per image like 40px"
            )


@dataclass(frozen=True, slots=True)
class Price:
    """What a budget asks of people, over all rounds.

    Attributes:
        budget: as typed.
        decisions_per_image: places to judge in one image, the mean rounded up.
        images: that are asked about.
        decisions: places to judge in all.
        hours: of one person, without breaks.
        seconds_per_decision: what the hours assume.
    """

    budget: str
    decisions_per_image: int
    images: int
    decisions: int
    hours: float
    seconds_per_decision: float

    @property
    def for_papers_only(self) -> bool:
        """Whether the places of one image cost people more time than labelling all of it."""
        return self.decisions_per_image * self.seconds_per_decision > WHOLE_IMAGE_HOURS * 3600

    def sentence(self) -> str:
        """The price in words; where whole images are cheaper, it says so and names a budget for people."""
        text = (
            f"--budget {self.budget} asks people for {self.decisions_per_image} decisions per image, "
            f"{self.decisions} for {self.images} images: about {_hours(self.hours)} "
            f"at an assumed {self.seconds_per_decision:g} s per decision"
        )
        if not self.for_papers_only:
            return text
        return (
            f"{text}. Labelling a whole street scene takes about {WHOLE_IMAGE_HOURS:g} h, which is less: "
            "this budget is for papers, not for people; use --setting pixel --budget 40px"
        )


def price(
    budget: Budget,
    *,
    sizes: Sequence[tuple[int, int]],
    label_radius: int,
    rounds: int,
    training_size: tuple[int, int],
    seconds_per_decision: float = SECONDS_PER_DECISION,
) -> Price:
    """Decisions and hours that a budget costs when people answer.

    Args:
        budget: percent or pixels.
        sizes: (H, W) of each image.
        label_radius, rounds, training_size: as for `Budget.picks_per_round`.
        seconds_per_decision: to find one place and say its class.

    Raises:
        UserError: the budget counts whole images.
    """
    decisions = sum(
        images
        * rounds
        * budget.picks_per_round(size, label_radius=label_radius, rounds=rounds, training_size=training_size)
        for size, images in Counter(tuple(size) for size in sizes).items()
    )
    return Price(
        budget=str(budget),
        decisions_per_image=math.ceil(decisions / max(len(sizes), 1)),
        images=len(sizes),
        decisions=decisions,
        hours=decisions * seconds_per_decision / 3600,
        seconds_per_decision=seconds_per_decision,
    )


@dataclass(frozen=True, slots=True)
class ImagePrice:
    """What whole images cost when people label them.

    Attributes:
        images: to label completely.
        hours_per_image: what the hours assume.
    """

    images: int
    hours_per_image: float = WHOLE_IMAGE_HOURS

    @property
    def hours(self) -> float:
        """Of one person, without breaks."""
        return self.images * self.hours_per_image

    def words(self) -> str:
        """The hours and what they assume."""
        return f"about {_hours(self.hours)} at an assumed {self.hours_per_image:.3g} h per image"


def _hours(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"
