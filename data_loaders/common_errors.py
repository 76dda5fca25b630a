"""Errors that every process of a distributed run finds alike, because all read the same arguments and folders."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from utils.errors import UserError

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def alike_everywhere(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Marks the UserErrors of `function`, which all processes call alike, so that one per machine reports them."""

    @functools.wraps(function)
    def marked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            error.everywhere = True
            raise

    return marked
