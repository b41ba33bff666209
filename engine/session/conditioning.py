"""AudioConditioner: what a picture's mouth is to say, and how much of it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lipwire.engine.audio.fade import Fade
from lipwire.engine.audio.mel import LOOKAHEAD_S, SILENCE
from lipwire.engine.audio.timeline import SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.types import F32

Listen = Callable[[Sequence[F32], F32 | None], F32]
"""Windows of log-mel, f32[80, C] each, and a person's reach -> codes, f32[K, codes]."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """For one picture."""

    mel: F32  # f32[80, C], see `LipJob`
    strength: float  # of the generated mouth, 0 (the original is shown) to 1
    cut_s: float | None  # when the voice was last interrupted, as of now; None: never
    ahead: tuple[F32, ...] = ()  # the same of the next pictures, as far as their sound is known


class AudioConditioner:
    """Listens to the new voice for one picture after the other; not locked, the session is."""

    def __init__(self, speech: SpeechTimeline, config: EngineConfig) -> None:
        self._speech = speech
        self._shown, self._voiced = Fade(config.fade_s), Fade(config.fade_s)
        self.silence = config.silence
        """what is shown while the voice is silent: the original, or a mouth that is shut"""
        self.cut_s: float | None = None  # when the voice was last interrupted

    def speaks(self, playout_s: float) -> bool:
        """Whether a mouth is wanted in the picture that is shown at `playout_s`."""
        return self.silence == "generate" or self._speech.speaking(playout_s)

    def condition(
        self,
        playout_s: float,
        columns: int,
        stands_s: float = 0.0,
        ahead: int = 0,
        period_s: float = 0.04,
    ) -> Conditioning:
        """For the picture that is shown from `playout_s` on; times never go back.

        Args:
            playout_s: the session's time.
            columns: of log-mel.
            stands_s: how long its mouth is seen.
            ahead: of so many of the next pictures it is told too what they will be given.
            period_s: from one picture to the next.
        """
        always = self.silence == "generate"
        mel = self._speech.mel_window(playout_s, columns, stands_s)
        shown = self._speech.speaking(playout_s)
        # The window reaches so far ahead, where a sound may begin already.
        voiced = shown or self._speech.speaking(playout_s + LOOKAHEAD_S)
        strength = self._shown.toward(shown or always, playout_s)
        gate = self._voiced.toward(voiced, playout_s)
        coming = self._speech.mel_ahead(playout_s, columns, ahead, period_s) if ahead else ()
        if always and gate < 1:
            # Shut, whatever noise there is where nobody speaks; and it stays so, which is worth a
            # better mouth than the one that is shown.
            mel = np.float32(SILENCE) + np.float32(gate) * (mel - np.float32(SILENCE))
            coming = () if gate else (mel,) * ahead
        return Conditioning(mel, strength, self.cut_s, coming)

    def interrupt(self, time_s: float) -> None:
        """The voice was cut off at `time_s`; the mouth goes with it."""
        self._shown.cut(time_s)
        self._voiced.cut(time_s)
        self.cut_s = time_s

    def lose(self) -> None:
        """The face is gone: its mouth fades in afresh when it returns."""
        self._shown.reset()
