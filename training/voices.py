"""Synthetic voices: utterances drawn at random, and shards of them in WebDataset's layout.

One group of members an utterance:
    KEY.speech.npy   int16[N], 16 kHz
    KEY.mel.npy      f16[80, M], 80 columns a second
    KEY.visemes.npy  uint8[M], the viseme (training.visemes.Viseme) at each column's centre
    KEY.mouth.npy    f16[M, 3], nominal opening, width and protrusion there, ±1
    KEY.json         language, voice, split, phones [[IPA, start_s, end_s], ...]
An utterance lasts about ten seconds; some are silence or noise alone, in which the mouth is shut.
"""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError, LipwireError
from engine.media import as_float
from engine.mel import HOP, log_mel
from engine.types import F32, I16, SPEECH_RATE_HZ, U8
from training import texts
from training.augment_sound import NOISES, degrade, make_noise
from training.processes import in_processes
from training.shards import add_member, map_member, read_index
from training.synthesis import FLITE_VOICES, Espeak, Phones, Utterance, flite_say
from training.visemes import mouth_track, segments_of, viseme_track

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
