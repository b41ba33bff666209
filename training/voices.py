"""Synthetic voices that say when each sound is made: espeak-ng's library and flite, as installed.

    speech, [(IPA, start, end)] = Espeak().say("Hello.", "en-us+f3")

`write_voices` makes shards of them in WebDataset's layout, one group of members an utterance:
    KEY.speech.npy   int16[N], 16 kHz
    KEY.mel.npy      f16[80, M], 80 columns a second
    KEY.visemes.npy  uint8[M], the viseme (training.visemes.Viseme) at each column's centre
    KEY.mouth.npy    f16[M, 3], nominal opening, width and protrusion there, ±1
    KEY.json         language, voice, split, phones [[IPA, start_s, end_s], ...]
An utterance lasts about ten seconds; some are silence or noise alone, in which the mouth is shut.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from engine.errors import ConfigError, LipwireError, MediaError
from engine.media import as_float, read_speech
from engine.mel import HOP, log_mel
from engine.types import F32, I16, SPEECH_RATE_HZ, U8
from training import texts
from training.augment_sound import NOISES, degrade, make_noise
from training.processes import in_processes
from training.shards import add_member, map_member, read_index
from training.visemes import from_arpabet, mouth_track, segments_of, viseme_track

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


# --- utterances drawn at random ---

# Variants of espeak-ng that sound like people, not like robots or whispers.
VARIANTS = (
    "", "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alicia",
    "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee",
    "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "antonio", "aunty",
    "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandma", "grandpa",
    "iven", "john", "klatt", "klatt2", "klatt4", "linda", "marcelo", "max", "michel", "miguel",
    "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph",
    "travis", "victor", "zac",
)  # fmt: skip
# Of these, every eighth is kept for validation, together with one flite voice and three languages.
HELD_OUT_VARIANTS = VARIANTS[7::8]
HELD_OUT_LANGUAGES = ("sw", "hu", "el")
HELD_OUT_FLITE = ("rms",)
UTTERANCE_S = 10.0
NOT_SPEECH_SHARE = 0.06  # of the utterances
FLITE_SHARE = 0.15


def draw_utterance(
    espeak: Espeak, split: str, rng: np.random.Generator, degraded: float = 0.5
) -> tuple[Utterance, dict[str, Any]]:
    """About ten seconds of one voice, or of none; and what it is.

    Args:
        espeak: the library.
        split: train or val: no voice or language held out for one occurs in the other.
        rng: draws everything.
        degraded: share of the utterances that pass through rooms, noise and codecs.

    Raises:
        ConfigError: a phoneme is not known, or a voice is missing.
        MediaError: nothing was said.
    """
    count = int(UTTERANCE_S * SPEECH_RATE_HZ)
    if rng.random() < NOT_SPEECH_SHARE:
        level = 10 ** rng.uniform(-5, -1)
        kind = str(rng.choice([*NOISES, "none"]))
        noise = np.zeros(count) if kind == "none" else make_noise(kind, count, rng) * level
        speech = (np.clip(noise, -1, 1) * 32767).astype(np.int16)
        return Utterance(speech, [("", 0.0, UTTERANCE_S)]), {"language": "", "voice": kind}

    val = split == "val"
    language, voice = "en-us", ""
    flite = rng.random() < FLITE_SHARE and shutil.which("flite") is not None
    if flite:
        voice = str(rng.choice([v for v in FLITE_VOICES if (v in HELD_OUT_FLITE) == val]))
    else:
        voice = str(rng.choice([v for v in VARIANTS if (v in HELD_OUT_VARIANTS) == val]))
        # Validation hears the held-out languages as often as all others together.
        held = val and rng.random() < 0.5
        choice = [n for n in texts.LANGUAGES if (n in HELD_OUT_LANGUAGES) == held]
        language = str(rng.choice(choice))
    name = f"flite-{voice}" if flite else "+".join(filter(None, (language, voice)))
    rate = int(rng.integers(125, 260))
    pitch, span = int(rng.integers(15, 85)), int(rng.integers(20, 90))
    pieces: list[F32] = []
    phones: Phones = []
    at = 0
    while at < count * 0.8:
        text = texts.sentence(language, rng)
        said = (flite_say(text, voice, 170 / rate) if flite
                else espeak.say(text, name, rate, pitch, span))  # fmt: skip
        pause = int(rng.exponential(0.3) * SPEECH_RATE_HZ)
        phones.append(("", at / SPEECH_RATE_HZ, (at + pause) / SPEECH_RATE_HZ))
        at_s = (at + pause) / SPEECH_RATE_HZ
        phones += [(ipa, at_s + start_s, at_s + end_s) for ipa, start_s, end_s in said.phones]
        pieces += [np.zeros(pause, np.float32), as_float(said.speech)]
        at += pause + len(said.speech)
    sound = np.concatenate(pieces)
    changed = rng.random() < degraded
    if changed:
        sound = degrade(sound, rng)
    speech = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
    return Utterance(speech, phones), {"language": language, "voice": name, "degraded": changed}


# --- shards ---

UTTERANCES_PER_SHARD = 90  # a quarter of an hour


def _members(utterance: Utterance, about: dict[str, Any]) -> dict[str, Any]:
    mel = log_mel(as_float(utterance.speech))
    times_s = np.arange(mel.shape[1]) * HOP / SPEECH_RATE_HZ
    segments = segments_of(utterance.phones)
    phones = [[ipa, round(start, 4), round(end, 4)] for ipa, start, end in utterance.phones]
    return {
        "speech.npy": utterance.speech,
        "mel.npy": mel.astype(np.float16),
        "visemes.npy": viseme_track(segments, times_s),
        "mouth.npy": mouth_track(segments, times_s).astype(np.float16),
        "json": {**about, "phones": phones},
    }


def _write_shard(task: tuple[Path, str, int, float]) -> Counter[str]:
    path, split, seed, degraded = task
    espeak = Espeak()
    # The split's own stream, so that a split's shards do not depend on how many the other has.
    rng = np.random.default_rng([seed, split == "val", int(path.stem.split("-")[1])])
    report: Counter[str] = Counter()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for number in range(UTTERANCES_PER_SHARD):
            try:
                utterance, about = draw_utterance(espeak, split, rng, degraded)
                members = _members(utterance, about)
            except LipwireError as error:
                report[f"skipped: {error}"] += 1
                continue
            key = f"{path.stem}-{number:03d}"
            for name, value in members.items():
                add_member(tar, f"{key}.{name}", value)
            report["utterances"] += 1
            report["seconds"] += len(utterance.speech) // SPEECH_RATE_HZ
    partial.rename(path)
    return report


def write_voices(
    out: Path, hours: float, *, seed: int = 0, workers: int = 2, degraded: float = 0.5
) -> dict[str, int]:
    """Write the missing shards of `hours` of training voices below `out`, and a tenth for val.

    Args:
        out: folder, made if missing.
        hours: of training material, rounded up to whole shards.
        seed: of everything.
        workers: processes.
        degraded: share of the utterances that pass through rooms, noise and codecs.

    Returns:
        What was newly written: utterances, seconds, and what was skipped and why.

    Raises:
        ConfigError: a synthesiser is missing.
    """
    from rich.progress import track

    if hours <= 0:
        raise ConfigError(f"hours is {hours}, must be above 0")
    Espeak()  # missing: say so here, not in every worker
    out.mkdir(parents=True, exist_ok=True)
    count = int(np.ceil(hours * 3600 / (UTTERANCES_PER_SHARD * UTTERANCE_S)))
    wanted = [(out / f"train-{n:04d}.tar", "train") for n in range(count)]
    wanted += [(out / f"val-{n:04d}.tar", "val") for n in range(-(-count // 10))]
    tasks = [(path, split, seed, degraded) for path, split in wanted if not path.exists()]
    total: Counter[str] = Counter()
    # The library's wave generator carries state from one utterance to the next: only in a process
    # of its own does a shard follow from its seed alone.
    results = in_processes(_write_shard, tasks, workers, fresh=True)
    for report in track(results, "speaking", len(tasks)):
        total.update(report)
    return dict(total)


@dataclass(frozen=True, slots=True)
class VoiceData:
    """One utterance of the shards; sound and mel stay on disk until they are read."""

    key: str
    language: str
    voice: str
    speech: I16
    """int16[N], memory-mapped"""
    mel: np.ndarray[Any, np.dtype[np.float16]]
    """f16[80, M], memory-mapped"""
    visemes: U8
    """uint8[M]"""
    mouth: F32
    """f32[M, 3]"""
    phones: Phones


def load_voices(folder: Path, split: str) -> list[VoiceData]:
    """Every utterance of the split's shards.

    Raises:
        ConfigError: the folder holds none.
    """
    voices = []
    for path in sorted(folder.glob(f"{split}-*.tar")):
        for key, members, about in read_index(path):
            voices.append(VoiceData(
                key, about["language"], about["voice"],
                map_member(path, members["speech.npy"]), map_member(path, members["mel.npy"]),
                np.array(map_member(path, members["visemes.npy"])),
                map_member(path, members["mouth.npy"]).astype(np.float32),
                [(ipa, start, end) for ipa, start, end in about["phones"]]))  # fmt: skip
    if not voices:
        raise ConfigError(f"{folder}: no {split} voices; run `lipwire voices` first")
    return voices
