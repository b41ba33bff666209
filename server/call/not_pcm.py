"""What is no 16-bit little-endian PCM, told by how it begins and by what its numbers look like.

A refusal drops a voice, so each test asks for what no sound has; what is doubtful is taken.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipwire.engine.types import F64, I16

# Bytes that an utterance is looked at before any of it is heard. Fewer: noise of some milliseconds
# gets out; more: a live voice in small messages begins late (256 samples are 11 ms at 24 kHz).
LOOK = 512
_SIGNATURES = tuple(
    (re.compile(begins, re.DOTALL), what)
    for begins, what in (
        (rb"OggS\x00[\x00-\x07]", "an Ogg stream"),
        (rb"fLaC[\x00-\x7f\x80-\x86]\x00", "a FLAC stream"),
        (rb"ID3[\x02-\x04][\x00-\x0f]", "an MP3 stream"),
        (rb"\x1aE\xdf\xa3[\x80-\xff]", "a WebM or Matroska stream"),
        (rb"\x00\x00.{2}(ftyp|styp|moov|moof)", "an MP4 stream"),
        (rb"RF64.{4}WAVE", "a WAV file of more than 4 GB"),
        (rb"RIFX.{4}WAVE", "a big-endian WAV file"),
        (rb"RIFF.{4}(?!WAVE)[A-Z ]{4}", "a RIFF file that is not WAV"),
        (rb"riff\x2e\x91\xcf\x11", "a Wave64 file"),
        (rb"FORM.{4}AIF[FC]", "an AIFF file"),
        (rb"caff\x00\x01", "a CAF file"),
        (rb"\.snd\x00\x00", "an AU file"),
        (rb"#!AMR", "an AMR file"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
        (rb"FLV\x01[\x01\x04\x05]\x00", "an FLV stream"),
        (rb"G(.{187}G){4}", "an MPEG transport stream"),
    )
)
# In a long utterance one of millions of messages may begin, or be, like these by chance: the
# shorter a signature, the more of them. Eight loud samples are text more often than one thinks.
_TEXT = re.compile(rb"[\t\n\r -~]{64,}")
_SHORT_TEXT = re.compile(rb"[\t\n\r -~]{4,}")
LOUD, CLIPPED = 16_384, 32_700
_FLOATS = {
    "<f8": "64-bit float sound",
    "<f4": "32-bit float sound",
    ">f8": "big-endian float sound",
    ">f4": "big-endian float sound",
}
WINDOW = 2048  # samples that are looked at together
# kbit/s of MPEG-1 and MPEG-2 layer III, and kHz/10 (ISO/IEC 11172-3 table 2.4.2.3, 13818-3)
_KBPS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_HZ = (44_100, 48_000, 32_000)


def foreign(data: bytes, all_of_it: bool = False) -> str | None:
    """What data is by its first bytes; None: it may be PCM.

    Args:
        data: a message.
        all_of_it: it is a whole utterance.
    """
    for begins, what in _SIGNATURES:
        if begins.match(data):
            return what
    # As PCM it were all far above zero. A constant is no text either.
    if (_SHORT_TEXT if all_of_it else _TEXT).fullmatch(data) and len(set(data[:256])) >= 4:
        return "text"
    if (size := _frame_bytes(data)) is not None and len(data) >= size + 4:
        following = data[size : size + 4]
        # Same version, layer, rate: all but padding, bit rate and joint stereo (or, in ADTS, the
        # length) are equal in a stream.
        if _frame_bytes(data[size:]) is not None and following[1] == data[1]:
            if data[1] & 0x06 == 0:
                return "an AAC (ADTS) stream" if following[2] == data[2] else None
            return "an MP3 stream" if following[2] & 0x0C == data[2] & 0x0C else None
    return None


def undecided(data: bytes) -> bool:
    """Whether data may be the beginning of MPEG frames or packets, and is too short to say."""
    if (size := _frame_bytes(data)) is not None:
        return len(data) < size + 4
    return len(data) < 4 * 188 + 1 and all(byte == ord("G") for byte in data[::188])


def _frame_bytes(data: bytes) -> int | None:
    """The length of the MP3 or ADTS frame that data begins with, if it does."""
    if len(data) < 6 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    if data[1] & 0xF6 == 0xF0:  # ADTS, ISO/IEC 13818-7 section 6.2
        size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
        return size if size > 7 and data[2] >> 2 & 0xF < 13 else None
    version, layer = data[1] >> 3 & 3, data[1] >> 1 & 3
    rate, pace = data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or layer != 1 or not 0 < rate < 15 or pace == 3:
        return None
    first = version == 3
    hz = _HZ[pace] // (1 if first else 2 if version == 2 else 4)
    kbps = _KBPS[not first][rate]
    return (144 if first else 72) * kbps * 1000 // hz + (data[2] >> 1 & 1)


def foreign_samples(samples: I16, first: bool) -> str | None:
    """What int16[N], the newest of an utterance, are if no sound looks like this; else None.

    Args:
        samples: at least LOOK bytes, if so many are there.
        first: they begin the utterance. No voice begins as noise at full scale; later a hiss that
            was amplified too much may come near it.
    """
    for start in range(0, max(1, len(samples) - LOOK // 2), WINDOW):
        if what := _foreign_window(samples[start : start + WINDOW], first and not start):
            return what
    return None


def _foreign_window(samples: I16, first: bool) -> str | None:
    swapped = samples.byteswap()
    if _quiet_swapped(samples):
        return "big-endian sound"
    # The upper halves of floats below 1 are 12,000 and more; most sound ends here.
    if (np.abs(samples.astype(np.int32)) > 12_000).mean() < 0.15:
        return None
    raw = samples.astype("<i2").tobytes()
    for code, what in _FLOATS.items():
        size = int(code[2])
        for offset in range(0, size, 2):
            whole = (len(raw) - offset) // size * size
            if _levels(np.frombuffer(raw[offset : offset + whole], code)):
                return what
    if len(samples) < LOOK // 2 or not _noise(samples) or not (first or _even(samples)):
        return None
    if not _noise(swapped) and _roughness(swapped) < 0.5:
        return "big-endian sound"
    high = samples.view(np.uint16) >> 8
    if ((high > 64) & (high < 192)).mean() > 0.98:
        return "8-bit sound"
    return "noise at full scale, as compressed sound or another format gives"


def _levels(values: NDArray[Any]) -> bool:
    """Whether floats are the levels of a sound: every one zero or of its size."""
    with np.errstate(all="ignore"):
        sizes = np.abs(values.astype(np.float64))
        fit = (sizes == 0) | ((sizes > 1e-7) & (sizes < 4))  # NaN does not
    there = np.count_nonzero(sizes[fit])
    return bool(there >= 32 and fit.all())


def _quiet_swapped(samples: I16) -> bool:
    """Whether these are a quiet sound's bytes the wrong way round: the lower ones are its sign."""
    low, high = samples.view(np.uint16) & 0xFF, samples.view(np.uint16) >> 8
    signs = low == np.where(high >= 128, 255, 0)
    telling = (high > 0) & (high < 255)
    return bool(
        signs.all()
        and telling.sum() >= 32
        and (low[telling] == 255).any()
        and (low[telling] == 0).any()
    )


def _noise(samples: I16) -> bool:
    """Whether they are loud and nothing in them follows from what was before.

    Sound that was amplified beyond its scale is rough too, but much of it lies at the very end.
    """
    sizes = np.abs(samples.astype(np.int32))
    loud, clipped = (sizes > LOUD).mean(), (sizes > CLIPPED).mean()
    return bool(loud > 0.2 and clipped < 0.05) and _roughness(samples) > 0.3


def _even(samples: I16) -> bool:
    """Whether every size is as frequent as every other, as in what was compressed."""
    shares = np.bincount(np.abs(samples.astype(np.int32)) >> 12, minlength=9)[:8] / len(samples)
    return bool(np.abs(shares - 1 / 8).max() < 0.06)


def _roughness(samples: I16) -> float:
    """What four coefficients of linear prediction leave of the energy, 0 to 1."""
    x: F64 = samples.astype(np.float64)
    x -= x.mean()
    past = np.column_stack([x[3 - k : len(x) - 1 - k] for k in range(4)])
    energy = float((x[4:] ** 2).sum())
    if energy == 0:
        return 0.0
    fit = np.linalg.lstsq(past, x[4:], rcond=None)[0]
    return float(((x[4:] - past @ fit) ** 2).sum()) / energy
