"""EngineConfig: every knob of the engine, validated when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lipwire.engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one session.

    Raises:
        ConfigError: a value is out of range; the message names the field and the range.
    """

    # A frame pushed at time t is shown at t + delay. Too small: a busy core makes frames late and
    # the picture judders. Too large: people feel the lag. 48 ms is about twice what one frame
    # costs on two cores.
    delay_s: float = 0.048
    # The delay of a machine that is slower or busy becomes so much longer; devices plan with it.
    # Too small: they are thought too slow, and do less; too large: they take their time.
    slack_s: float = 0.012
    # How long past that a frame may still be waited for; then its original is shown.
    # Too small: short hiccups flash the original mouth. Too large: a stall freezes the picture.
    patience_s: float = 0.080
    # Spare time added to the model's look-ahead before speech that has just arrived is played.
    # Too small: a jittery voice underruns and is heard in pieces. Too large: the voice is later.
    speech_margin_s: float = 0.080
    # The voice at most this far ahead of its playing; more than this must wait at the source.
    speech_backlog_max_s: float = 600.0
    # Level of the original voice under the new one, 0 = not heard.
    original_level: float = 0.0
    # Whether the original is heard in full while the new voice is silent.
    ducking: bool = False
    # Time constants of the original's gain, falling and rising. Shorter: it pumps and clicks;
    # longer: the first word is covered, or the original is missing after the last.
    duck_attack_s: float = 0.050
    duck_release_s: float = 0.400
    # Loudness that the new voice is slowly brought to (BS.1770); None leaves it as it comes.
    loudness_lufs: float | None = None
    # DDIM steps; None takes the bundle's default.
    steps: int | None = None
    # Whether a device that is too slow is given less to do (engine/overload/controller.py).
    # Otherwise every frame takes its steps, and those that are not ready in time pass through.
    ladder: bool = True
    # Whether mouths are chosen among the person's own (engine/units); otherwise all are generated,
    # as they are until enough has been seen.
    own_mouths: bool = True
    # What to show while the new voice is silent: the person's own mouth, or a generated one that
    # is shut, whatever noise there is in the voice's pauses.
    silence: Literal["original", "generate"] = "original"
    # How long the generated mouth fades in and out. 40 ms would pop, 400 ms would lag.
    fade_s: float = 0.160
    # Faces narrower than this, ear to ear, are passed through. Smaller: the mouth is ten pixels
    # wide and its landmarks shiver by a tenth of that; larger: who sits back is not dubbed.
    min_face_px: int = 64
    # Pictures outside these sides are passed through untouched.
    min_side_px: int = 48
    max_side_px: int = 4096
    # Seed of the one noise image used for every frame: this is what keeps the mouth from boiling.
    seed: int = 0
    # Off-line work (`dub`): frames are never late or dropped, and the speech begins at 0 and goes
    # on without a pause, whenever it is pushed.
    offline: bool = False

    @property
    def longest_delay_s(self) -> float:
        """The delay of a slow machine; by then devices should have painted a frame."""
        return self.delay_s + self.slack_s

    def __post_init__(self) -> None:

        def within(name: str, low: float, high: float) -> None:
            value = getattr(self, name)
            try:
                good = low <= value <= high
            except TypeError:
                raise ConfigError(f"{name} is {value!r}, must be a number") from None
            if not good:
                raise ConfigError(f"{name} is {value}, must lie within {low} and {high}")

        within("delay_s", 0.0, 2.0)
        within("slack_s", 0.0, 2.0)
        within("patience_s", 0.0, 2.0)
        within("speech_margin_s", 0.0, 2.0)
        within("speech_backlog_max_s", 1.0, 3600.0)
        within("original_level", 0.0, 1.0)
        within("duck_attack_s", 0.0, 5.0)
        within("duck_release_s", 0.0, 5.0)
        if self.loudness_lufs is not None:
            within("loudness_lufs", -40.0, -8.0)
        within("fade_s", 0.0, 2.0)
        within("min_face_px", 8, 1024)
        within("min_side_px", 16, 65_536)
        within("max_side_px", self.min_side_px, 65_536)
        if self.steps is not None:
            within("steps", 1, 1000)
        within("seed", 0, 2**63 - 1)
        if self.silence not in ("original", "generate"):
            raise ConfigError(f"silence is {self.silence!r}, must be 'original' or 'generate'")
