"""Synthesisers that say when each sound is made: espeak-ng's library and flite, as installed.

speech, [(IPA, start, end)] = Espeak().say("Hello.", "en-us+f3")
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from engine.errors import ConfigError, MediaError
from engine.media import read_speech
from engine.types import I16, SPEECH_RATE_HZ
from training.visemes import from_arpabet

Phones = list[tuple[str, float, float]]
"""(IPA, start, end) in seconds; "" is a pause"""


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a voice said, and when."""

    speech: I16
    """int16[N] at 16 kHz"""
    phones: Phones


# --- espeak-ng ---


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h, API revision 12."""

    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_PHONEME_EVENT = 7
_SYNCHRONOUS, _PHONEME_EVENTS, _IPA_NAMES, _DONT_EXIT = 2, 1, 2, 0x8000
_UTF8, _END_PAUSE = 1, 0x1000
_RATE, _PITCH, _RANGE = 1, 3, 4
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
# A voiceless stop is reported at its burst; the silence before it, up to this long, is its closure.
# Longer ones are pauses.
MAX_CLOSURE_S = 0.11
_CLOSED_FIRST = re.compile("^[ptkqcʈʔ]")


class Espeak:
    """espeak-ng's shared library; it has one state a process, so use one of these at a time.

    Raises:
        ConfigError: the library is not installed.
    """

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise ConfigError("espeak-ng's library is not installed (Debian: espeak-ng)") from None
        options = _PHONEME_EVENTS | _IPA_NAMES | _DONT_EXIT
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, options)
        if self._rate_hz <= 0:
            raise ConfigError("espeak-ng's voices are not installed (Debian: espeak-ng-data)")
        self._pieces: list[I16] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # the library keeps only the pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        number = 0
        while events[number].type:
            event = events[number]
            if event.type == _PHONEME_EVENT:
                # All 8 bytes may be used; then no zero ends them.
                raw = ctypes.string_at(ctypes.addressof(event) + _Event.id.offset, 8)
                self._events.append((event.sample, raw.split(b"\0")[0].decode("utf-8", "ignore")))
            number += 1
        return 0

    def say(
        self, text: str, voice: str = "en-us", rate: int = 175, pitch: int = 50, span: int = 50
    ) -> Utterance:
        """Speak.

        Args:
            text: in the script that the voice reads.
            voice: language, or language+variant.
            rate: words a minute, 80 to 450.
            pitch: 0 to 100.
            span: how far the pitch moves, 0 to 100.

        Raises:
            ConfigError: there is no such voice.
            MediaError: the text gave no sound.
        """
        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()):
            raise ConfigError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, span)):
            library.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._events = [], []
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _END_PAUSE, None, None)
        library.espeak_Synchronize()
        if not self._pieces:
            raise MediaError(f"espeak-ng said nothing for {text!r}")
        samples = np.concatenate(self._pieces)
        phones = _timed(self._events, samples, self._rate_hz)
        return Utterance(_resampled(samples, self._rate_hz), phones)


def _timed(events: list[tuple[int, str]], samples: I16, rate_hz: int) -> Phones:
    """Events at (sample, IPA) -> intervals; unnamed ones are pauses where nothing sounds."""
    block = rate_hz // 200  # 5 ms
    blocks = samples[: len(samples) // block * block].reshape(-1, block).astype(np.float32)
    quiet = np.abs(blocks).max(1) < 30

    def closure_samples(start: int) -> int:
        """How much silence lies directly before a sample."""
        begin = start // block - 1
        while begin >= 0 and quiet[begin] and start - begin * block <= MAX_CLOSURE_S * rate_hz:
            begin -= 1
        return start - (begin + 1) * block

    starts: list[tuple[int, str]] = []
    nexts = [start for start, _ in events[1:]] + [len(samples)]
    for (start, name), end in zip(events, nexts, strict=True):
        name = re.sub(r"\(.*?\)", "", name)  # a change of language
        if not name:
            following = quiet[start // block : -(-end // block)]
            if len(following) and following.mean() < 0.5:
                continue  # part of the sound before
        elif _CLOSED_FIRST.match(name):
            start -= closure_samples(start)
        if starts and start <= starts[-1][0]:
            # The closure is all there was of a pause, or of a sound of no length.
            starts.pop()
        starts.append((max(start, 0), name))
    ends = [start for start, _ in starts[1:]] + [len(samples)]
    return [
        (name, start / rate_hz, end / rate_hz)
        for (start, name), end in zip(starts, ends, strict=True)
        if end > start
    ]


def _resampled(samples: I16, rate_hz: int) -> I16:
    import soxr

    if rate_hz == SPEECH_RATE_HZ:
        return samples
    return np.asarray(soxr.resample(samples, rate_hz, SPEECH_RATE_HZ), np.int16)


# --- flite ---

FLITE_VOICES = ("awb", "kal16", "rms", "slt")


def flite_say(text: str, voice: str = "slt", stretch: float = 1.0) -> Utterance:
    """English by flite; its voices were cut or modelled from people's speech.

    Raises:
        ConfigError: flite is not installed or has no such voice.
        MediaError: it failed or said nothing.
    """
    program = shutil.which("flite")
    if program is None:
        raise ConfigError("flite is not installed (Debian: flite)")
    if voice not in FLITE_VOICES:
        raise ConfigError(f"flite has no voice {voice!r}: {', '.join(FLITE_VOICES)}")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [program, "-voice", voice, "--setf", f"duration_stretch={stretch}", "-psdur",
                   "-t", text, "-o", file.name]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise MediaError(f"flite failed: {done.stderr.strip() or done.returncode}")
        speech = read_speech(file.name)
    phones, start_s = [], 0.0
    for name, end in re.findall(r"([a-z]+):([\d.]+)", done.stdout):
        phones.append((from_arpabet(name), start_s, float(end)))
        start_s = float(end)
    if not phones:
        raise MediaError(f"flite said nothing for {text!r}")
    return Utterance(speech, phones)
