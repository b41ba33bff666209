"""Private attributes of aiortc's classes, by name, so that a missing one is loud."""

from __future__ import annotations

from typing import Any


def get_private(owner: object, of: type, name: str) -> Any:
    """What the class `of` calls `self.__name` in `owner`.

    Raises:
        AttributeError: this aiortc has none of that name.
    """
    return getattr(owner, f"_{of.__name__}__{name}")


def set_private(owner: object, of: type, name: str, value: object) -> None:
    """Replace what the class `of` calls `self.__name` in `owner`.

    Raises:
        AttributeError: this aiortc has none of that name.
    """
    get_private(owner, of, name)
    setattr(owner, f"_{of.__name__}__{name}", value)
