"""Which cases of a test always run; the rest run by `--thorough`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def cases(values: Iterable[Any], always: Callable[[Any], bool]) -> list[Any]:
    """For `pytest.mark.parametrize`; values that are tuples are several arguments."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=() if always(value) else pytest.mark.thorough,
        )
        for value in values
    ]
