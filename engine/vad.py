"""When the new voice speaks: webrtcvad over the scheduled sound, with hangover."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from engine.ring import Ring
from engine.types import I16, SPEECH_RATE_HZ

FRAME = SPEECH_RATE_HZ // 50  # 20 ms, a length webrtcvad takes
PEAK_MIN = 64  # of 32768, about -54 dBFS: what is quieter is not even asked about
# The mouth opens a little before the sound. Shorter: the first syllable starts on a closed mouth.
ONSET_S = 0.12
# Pauses inside a sentence must not flicker. Shorter: they do; longer: the end of speech lingers.
HANGOVER_S = 0.30


class VoiceActivity:
    """Speaking or silent at any time of a sample timeline that starts at 0.

    Args:
        aggressiveness: webrtcvad's 0 (takes noise for speech) to 3 (takes quiet speech for noise).
        seconds: how far back decisions are kept.
    """

    def __init__(self, aggressiveness: int = 2, seconds: float = 120.0) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it still asks pkg_resources for its version
            import webrtcvad

        self._vad: Any = webrtcvad.Vad(aggressiveness)
        self._flags = Ring(int(seconds * SPEECH_RATE_HZ / FRAME) + 1, (), np.bool_)
        self._rest: I16 = np.zeros(0, np.int16)

    def append(self, samples: I16) -> None:
        """Hear more of the timeline, int16[N] at 16 kHz."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // FRAME
        frames = sound[: count * FRAME].reshape(count, FRAME)
        flags = np.zeros(count, np.bool_)
        for i in np.flatnonzero(np.abs(frames.astype(np.int32)).max(axis=1, initial=0) > PEAK_MIN):
            flags[i] = self._vad.is_speech(frames[i].tobytes(), SPEECH_RATE_HZ)
        self._flags.append(flags)
        self._rest = sound[count * FRAME :]

    def append_silence(self, count: int) -> None:
        """Hear `count` samples of silence."""
        for done in range(0, count, SPEECH_RATE_HZ):
            self.append(np.zeros(min(SPEECH_RATE_HZ, count - done), np.int16))

    def truncate(self, stop: int) -> None:
        """Forget what was heard from absolute sample `stop` on."""
        heard = self._flags.stop * FRAME + len(self._rest)
        if stop >= heard:
            return
        whole = max(stop // FRAME, self._flags.start)
        if whole < self._flags.stop:
            self._flags.truncate(whole)
            # The cut frame's own samples are gone; what is left of it counts as silence.
            self._rest = np.zeros(max(0, stop - whole * FRAME), np.int16)
        else:
            self._rest = self._rest[: stop - whole * FRAME]

    def forget(self, start: int) -> None:
        """Forget what was heard before absolute sample `start`; what is missing is silence."""
        if start > self._flags.stop * FRAME + len(self._rest):
            self._flags.forget(start // FRAME)
            self._rest = np.zeros(start % FRAME, np.int16)

    def speaking(self, time_s: float) -> bool:
        """Whether the voice speaks around `time_s`; what has not been heard yet is silence."""
        start = int((time_s - HANGOVER_S) * SPEECH_RATE_HZ / FRAME)
        stop = int((time_s + ONSET_S) * SPEECH_RATE_HZ / FRAME) + 1
        start, stop = max(start, self._flags.start), min(stop, self._flags.stop)
        return start < stop and bool(self._flags.read(start, stop).any())
