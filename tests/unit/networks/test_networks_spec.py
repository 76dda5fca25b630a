"""networks.spec"""

from __future__ import annotations

import pytest

from networks import NetworkSpec, build
from utils.errors import UserError

SPEC = NetworkSpec(
    "deeplab_two_head", "resnet18_quarter", 3, "demo3", {"norm_style": "gn", "dilations": [1, 2]}
)


def test_a_spec_survives_the_round_trip_through_plain_values() -> None:
    assert NetworkSpec.from_dict(SPEC.to_dict()) == SPEC


def test_a_built_network_remembers_every_option() -> None:
    options = build(SPEC).spec.options
    assert options["norm_style"] == "gn"
    assert options["drop_rate"] == 0.1


def test_missing_and_unknown_fields_are_named() -> None:
    values = SPEC.to_dict()
    del values["backbone"]
    with pytest.raises(UserError, match=r"lacks \['backbone'\] and has unknown fields \['body'\]"):
        NetworkSpec.from_dict({**values, "body": "x"})
