"""Choice: which face of several somebody wants."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lipwire.engine.errors import ConfigError


class Policy(StrEnum):
    """Who is chosen when nobody is followed; whoever is, is kept."""

    LARGEST = "largest"
    CENTRAL = "central"
    LIPS = "lips"  # whose lips move with the original voice; may change while tracked
    POSITION = "position"  # nearest to a point: whom somebody has pointed at


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody wants of the tracking; applied in the next picture.

    Raises:
        ConfigError: an unknown policy, or a place outside the picture.
    """

    policy: Policy | None = None
    next: bool = False  # the next face to the right, and from the last one back to the first
    index: int | None = None  # the so manieth from the left, from 0
    position: tuple[float, float] | None = None
    """x and y as shares of the picture: the face nearest to it"""

    def __post_init__(self) -> None:
        if self.policy is not None:
            try:
                object.__setattr__(self, "policy", Policy(self.policy))
            except ValueError:
                raise ConfigError(
                    f"policy is {self.policy!r}, must be one of {[p.value for p in Policy]}"
                ) from None
        ways = (self.next, self.index is not None, self.position is not None)
        if sum(ways) > 1:
            raise ConfigError("choose a face by next, by index or by position, not by several")
        if not any(ways) and self.policy is None:
            raise ConfigError("say policy, next, index or position")
        if any(ways) and self.policy not in (None, Policy.POSITION):
            raise ConfigError(f"a face is pointed at or chosen by policy {self.policy}, not both")
        if self.policy is Policy.POSITION and not any(ways):
            raise ConfigError("policy position needs a position, an index or next")
        if self.index is not None and self.index < 0:
            raise ConfigError(f"index is {self.index}, must be 0 or more")
        if self.position is not None and not all(0 <= p <= 1 for p in self.position):
            raise ConfigError(f"position is {self.position}, must lie within 0 and 1")
