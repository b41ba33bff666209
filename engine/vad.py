"""When the new voice speaks: webrtcvad over the scheduled sound, without tones, with hangover."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.ring import Ring
from engine.types import I16, SPEECH_RATE_HZ

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
        self._spectrum = np.zeros(FRAME // 2 + 1)  # of the last frame, of length 1 or 0
        self._cut_s = -1.0  # there is no hangover from before it

    def append(self, samples: I16) -> None:
        """Hear more of the timeline, int16[N] at 16 kHz."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // FRAME
        frames = sound[: count * FRAME].reshape(count, FRAME)
        flags = np.zeros(count, np.bool_)
        loud = np.abs(frames.astype(np.int32)).max(axis=1, initial=0) > PEAK_MIN
        steady = self._steady(frames, loud)
        for i in np.flatnonzero(loud):
            flags[i] = self._vad.is_speech(frames[i].tobytes(), SPEECH_RATE_HZ) and not steady[i]
        self._flags.append(flags)
        self._rest = sound[count * FRAME :]

    def _steady(self, frames: I16, loud: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which of int16[N, 320] sound exactly as the frame before."""
        if not loud.any():
            self._spectrum = np.zeros_like(self._spectrum)
            return np.zeros(len(frames), np.bool_)
        spectra = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1))
        spectra[~loud] = 0  # in any pieces the same
        spectra /= np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-9)
        before = np.concatenate([self._spectrum[None], spectra[:-1]])
        self._spectrum = spectra[-1]
        return np.asarray((before * spectra).sum(axis=1) > STEADY)

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
        flags = self._flags.read(start, stop)
        votes = np.cumsum(np.concatenate([[0], flags]))
        width = min(2 * AROUND + 1, len(flags))
        return bool((votes[width:] - votes[:-width]).max() >= ENOUGH)
