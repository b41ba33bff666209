"""When the new voice speaks: webrtcvad over the scheduled sound, with hangover.

webrtcvad takes tones, and noise that begins after speech, for a voice; so frames that sound exactly
as the one before do not count, and somewhere near there must be one with a pitch. Consonants have
their vowels near; a whisper is not seen, and music is a voice to it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.engine.audio.ring import Ring
from lipwire.engine.types import F64, I16, SPEECH_RATE_HZ

Flags = npt.NDArray[np.bool_]

FRAME = SPEECH_RATE_HZ // 50  # 20 ms, a length webrtcvad takes
PEAK_MIN = 64  # of 32768, about -54 dBFS: what is quieter is not even asked about
# The mouth opens a little before the sound. Shorter: the first syllable starts on a closed mouth.
ONSET_S = 0.12
# A frame counts with so many of the five around it. Fewer: clicks and key tones open the mouth.
# More: short syllables are missed.
AROUND, ENOUGH = 2, 3
# Frames whose spectra are so nearly the same (cosine) are a tone: dialling, ringing, hum. Lower:
# held vowels are taken for tones; higher: tones with a little noise are taken for a voice.
STEADY = 0.9995
# A frame is voiced where its sound repeats itself so well within a pitch period. At 0.35 noise of
# a fan opens the mouth; at 0.45 breathy readers lose 6 % of what they say, at 0.4 2 %.
VOICED = 0.4
PITCH_HZ = (75, 400)
# Pauses inside a sentence must not flicker. Shorter: they do; longer: the end of speech lingers.
HANGOVER_S = 0.30


@cache
def _lag_weights() -> F64:
    """Autocorrelation of the window itself, which that of a sound in it is divided by."""
    window = np.hanning(2 * FRAME)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 4 * FRAME)) ** 2)
    return np.asarray(own / own[0])


def voiced(before: I16, frames: I16) -> Flags:
    """Which of int16[N, 320] have a pitch, each with the frame before it, int16[N, 320].

    Normalised autocorrelation (Boersma, 1993) of 40 ms, pre-emphasised, as much noise is low.
    """
    sound = np.concatenate([before, frames], axis=1).astype(np.float64)
    sound[:, 1:] -= 0.97 * sound[:, :-1]
    sound[:, 0] = 0
    power = np.abs(np.fft.rfft(sound * np.hanning(2 * FRAME), 4 * FRAME, axis=1)) ** 2
    alike = np.fft.irfft(power, axis=1)
    low, high = (round(SPEECH_RATE_HZ / hz) for hz in reversed(PITCH_HZ))
    best = (alike[:, low : high + 1] / _lag_weights()[low : high + 1]).max(axis=1)
    return np.asarray(best > VOICED * np.maximum(alike[:, 0], 1e-9))


def steady(before: I16, frames: I16) -> Flags:
    """Which of int16[N, 320] sound exactly as the frame before, int16[N, 320]."""
    old, new = (np.abs(np.fft.rfft(f * np.hanning(FRAME), axis=1)) for f in (before, frames))
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    return np.asarray((old * new).sum(axis=1) > STEADY * np.maximum(norms, 1e-9))


class VoiceActivity:
    """Speaking or silent at any time of a sample timeline that starts at 0.

    Args:
        aggressiveness: webrtcvad's 0 (takes noise for speech) to 3 (takes quiet speech for noise).
        seconds: how far back decisions are kept.
    """

    def __init__(self, aggressiveness: int = 2, seconds: float = 120.0) -> None:
        import webrtcvad

        self._vad: Any = webrtcvad.Vad(aggressiveness)
        # Of each frame: whether it is speech and not steady; whether it has a pitch besides.
        self._flags = Ring(int(seconds * SPEECH_RATE_HZ / FRAME) + 1, (2,), np.bool_)
        self._rest: I16 = np.zeros(0, np.int16)
        self._frame: I16 = np.zeros(FRAME, np.int16)  # the last one
        self._cut_s = -1.0  # there is no hangover from before it

    def append(self, samples: I16) -> None:
        """Hear more of the timeline, int16[N] at 16 kHz."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // FRAME
        frames = sound[: count * FRAME].reshape(count, FRAME)
        flags, pitched = np.zeros((2, count), np.bool_)
        loud = np.abs(frames.astype(np.int32)).max(axis=1, initial=0) > PEAK_MIN
        for i in np.flatnonzero(loud):
            flags[i] = self._vad.is_speech(frames[i].tobytes(), SPEECH_RATE_HZ)
        maybe = np.flatnonzero(flags)
        if len(maybe):
            before = np.concatenate([self._frame[None], frames[:-1]])[maybe]
            flags[maybe] = ~steady(before, frames[maybe])
            pitched[maybe] = flags[maybe] & voiced(before, frames[maybe])
        if count:
            self._frame = frames[-1].copy()
        self._flags.append(np.stack([flags, pitched], axis=1))
        self._rest = sound[count * FRAME :]

    def append_silence(self, count: int) -> None:
        """Hear `count` samples of silence."""
        for done in range(0, count, SPEECH_RATE_HZ):
            self.append(np.zeros(min(SPEECH_RATE_HZ, count - done), np.int16))

    def truncate(self, stop: int) -> None:
        """Forget what was heard from absolute sample `stop` on; nothing lingers after it."""
        self._cut_s = stop / SPEECH_RATE_HZ
        heard = self._flags.stop * FRAME + len(self._rest)
        if stop >= heard:
            return
        whole = max(stop // FRAME, self._flags.start)
        if whole < self._flags.stop:
            self._flags.truncate(whole)
            self._frame = np.zeros(FRAME, np.int16)
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
        since_s = time_s - HANGOVER_S
        if time_s >= self._cut_s:
            since_s = max(since_s, self._cut_s)
        start = int(since_s * SPEECH_RATE_HZ / FRAME) - AROUND
        stop = int((time_s + ONSET_S) * SPEECH_RATE_HZ / FRAME) + 1 + AROUND
        start, stop = max(start, self._flags.start), min(stop, self._flags.stop)
        if stop - start < ENOUGH:
            return False
        flags, pitched = self._flags.read(start, stop).T
        votes = np.cumsum(np.concatenate([[0], flags]))
        width = min(2 * AROUND + 1, len(flags))
        return bool(pitched.any() and (votes[width:] - votes[:-width]).max() >= ENOUGH)
