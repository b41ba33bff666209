"""The speech socket knows what it is sent: PCM and WAV are heard, all else is refused in a line."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets
from calling import calling
from calls import Running, sound_file, until
from fakes import FakeTracker, voiced
from files import write_sound

from lipwire.engine import EngineConfig, MediaError, Session
from lipwire.engine.types import I16
from lipwire.server.api.speech_socket import read_query
from lipwire.server.call.events import EventBus
from lipwire.server.call.pcm_reader import MULAW, PcmReader, _g711

RATE_HZ = 24_000
VOICE = voiced(0.5, RATE_HZ)


def wav(
    samples: I16 = VOICE,
    rate_hz: int = RATE_HZ,
    channels: int = 1,
    size: int | None = None,
    sound: bytes | None = None,
    tag: int = 1,
    bits: int = 16,
    extra: bytes = b"",
    end: bytes = b"",
) -> bytes:
    """A WAV file; `size` is what its header claims, `extra` stands before the samples."""
    data = samples.astype("<i2").tobytes() if sound is None else sound
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * width, width, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + extra
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data + end
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def read(
    *messages: bytes, channels: int = 1, rate_hz: int = RATE_HZ
) -> tuple[I16, set[int], list[str]]:
    """What a socket would push of an utterance: samples, their rates, errors."""
    reader, pieces, errors = PcmReader(rate_hz, channels), list[tuple[I16, int]](), list[str]()
    for step in [*(lambda m=m: reader.feed(m) for m in messages), reader.end]:
        try:
            pieces += step()
        except MediaError as error:
            errors.append(str(error))
    samples = np.concatenate([np.zeros(0, np.int16), *(piece for piece, _ in pieces)])
    return samples, {rate for _, rate in pieces}, errors


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[k : k + size] for k in range(0, len(data), size)]


# --- what is taken ---


@pytest.mark.parametrize("seed", range(20))
def test_bytes_cut_anywhere_give_the_same_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = (VOICE * rng.uniform(0.001, 1)).astype(np.int16)[: rng.integers(0, 4000)]
    raw, messages = samples.astype("<i2").tobytes(), list[bytes]()
    while raw:
        size = int(rng.integers(0, (6, 900)[seed % 2]))
        messages.append(raw[:size])
        raw = raw[size:]
    found, rates, errors = read(*messages)
    assert np.array_equal(found, samples) and rates <= {RATE_HZ} and not errors


def test_half_a_sample_waits_and_can_be_forgotten() -> None:
    reader = PcmReader(RATE_HZ)
    ((samples, _),) = reader.feed(bytes(1001))
    assert len(samples) == 500 and reader.dangling
    reader.reset()
    assert not reader.dangling
    assert reader.feed(b"\x05\x00") == [] and [s.tolist() for s, _ in reader.end()] == [[5]]


@pytest.mark.parametrize("message", [1, 44, 45, 1024, 10**6])
@pytest.mark.parametrize("heads", [1, 6])
@pytest.mark.parametrize("size", [None, 0, 36, 0x7FFFFFFF, 0xFFFFFFFF, 2_000_000_000])
def test_headers_of_wav_are_taken_off(message: int, heads: int, size: int | None) -> None:
    tail = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + b"\x7f\x7f" * 9 if size is None else b""
    whole = wav(VOICE[:2000], size=size, end=tail) * heads
    found, rates, errors = read(*cut(whole, message))
    assert np.array_equal(found, np.tile(VOICE[:2000], heads))
    assert (rates, errors) == ({RATE_HZ}, [])


def test_a_header_in_every_message_and_pcm_after_a_header() -> None:
    third = len(VOICE) // 3
    pieces = [VOICE[k * third : (k + 1) * third] for k in range(3)]
    assert np.array_equal(read(*map(wav, pieces))[0], VOICE)
    raw = [piece.astype("<i2").tobytes() for piece in pieces]
    assert np.array_equal(read(wav(pieces[0]), *raw[1:])[0], VOICE)
    assert np.array_equal(read(raw[0], wav(pieces[1]), raw[2])[0], VOICE)


def test_silence_behind_a_header_is_silent() -> None:
    silence = np.zeros(RATE_HZ, np.int16)
    found, _, errors = read(wav(silence))
    assert len(found) == RATE_HZ and not found.any() and not errors


@pytest.mark.parametrize(
    ("tag", "bits", "make"),
    [
        (1, 8, lambda x: ((x >> 8) + 128).astype(np.uint8).tobytes()),
        (1, 24, lambda x: (x.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()),
        (1, 32, lambda x: (x.astype("<i4") << 16).tobytes()),
        (3, 32, lambda x: (x / 32768).astype("<f4").tobytes()),
        (3, 64, lambda x: (x / 32768).astype("<f8").tobytes()),
    ],
    ids=["uint8", "int24", "int32", "float32", "float64"],
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_header_says_what_follows(
    tag: int, bits: int, make: Callable[[I16], bytes], channels: int
) -> None:
    sound = make(np.repeat(VOICE, channels))
    data = wav(sound=sound, tag=tag, bits=bits, channels=channels, rate_hz=16_000)
    found, rates, errors = read(*cut(data, 1001))
    assert (rates, errors) == ({16_000}, [])
    assert len(found) == len(VOICE)
    assert np.abs(found.astype(int) - VOICE).max() <= (256 if bits == 8 else 1)


@pytest.mark.parametrize(("tag", "ends"), [(7, (-32124, 32124, 0)), (6, (32256, -32256, -8))])
def test_companded_sound(tag: int, ends: tuple[int, int, int]) -> None:
    codes = {7: (0x00, 0x80, 0xFF), 6: (0xAA, 0x2A, 0x55)}[tag]
    found, _, errors = read(wav(sound=bytes(codes) * 300, tag=tag, bits=8))
    assert found[:3].tolist() == list(ends) and not errors


def test_declared_channels_are_mixed() -> None:
    both = np.column_stack([VOICE, np.zeros_like(VOICE)]).astype("<i2").tobytes()
    found, _, errors = read(*cut(both, 333), channels=2)
    assert len(found) == len(VOICE) and not errors
    assert np.abs(found - VOICE / 2).max() <= 1


# --- what is refused ---


def encoded(suffix: str, codec: str = "") -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        path = write_sound(folder / f"v.{suffix}", voiced(1.0, 48_000), 48_000, codec=codec)
        return path.read_bytes()

    return make


def headless_mp3(folder: Path) -> bytes:
    data = encoded("mp3")(folder)
    return data[data.index(b"\xff\xfb", 200) :]


def mulaw(_: Path) -> bytes:
    """G.711 without a header, as telephones send it."""
    codes = np.arange(256, dtype=np.uint8)
    levels = _g711(codes, MULAW)
    return codes[np.abs(levels[None] - VOICE[:, None]).argmin(1)].tobytes()


LEVELS = VOICE / np.float64(32768)
FOREIGN: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "mp3": (encoded("mp3"), "MP3"),
    "mp3 without tags": (headless_mp3, "MP3"),
    "ogg": (encoded("ogg"), "Ogg"),
    "ogg page of noise": (lambda _: b"OggS\0\2" + np.random.default_rng(1).bytes(20_000), "Ogg"),
    "flac": (encoded("flac"), "FLAC"),
    "adts": (encoded("aac", "aac"), "AAC"),
    "m4a": (encoded("m4a"), "MP4"),
    "webm": (encoded("webm", "libopus"), "WebM"),
    "ts": (encoded("ts", "aac"), "transport|noise"),
    "aiff": (encoded("aiff", "pcm_s16be"), "AIFF"),
    "au": (encoded("au", "pcm_s16be"), "AU"),
    "caf": (encoded("caf", "pcm_s16le"), "CAF"),
    "w64": (encoded("w64", "pcm_s16le"), "Wave64"),
    "rifx": (lambda _: b"RIFX" + wav()[4:], "big-endian WAV"),
    "avi": (lambda _: b"RIFF\0\0\0\0AVI LIST" + bytes(1000), "not WAV"),
    "adpcm wav": (lambda _: wav(tag=17, bits=4, sound=bytes(1000)), "format 17"),
    "json": (lambda _: json.dumps({"audio": base64.b64encode(wav()).decode()}).encode(), "text"),
    "base64": (lambda _: base64.b64encode(VOICE.tobytes()), "text"),
    "short json": (lambda _: b'{"type":"flush"}', "text"),
    "float32": (lambda _: LEVELS.astype("<f4").tobytes(), "32-bit float"),
    "float64": (lambda _: LEVELS.astype("<f8").tobytes(), "64-bit float"),
    "big-endian float": (lambda _: LEVELS.astype(">f4").tobytes(), "big-endian|noise"),
    "big-endian": (lambda _: VOICE.astype(">i2").tobytes(), "big-endian"),
    "quiet big-endian": (lambda _: (VOICE // 200).astype(">i2").tobytes(), "big-endian"),
    "8-bit": (lambda _: ((VOICE >> 8) + 128).astype(np.uint8).tobytes(), "8-bit"),
    "mu-law": (mulaw, "noise"),
    "noise": (lambda _: np.random.default_rng(0).bytes(9000), "noise"),
}


@pytest.mark.parametrize("message", [3, 20, 1024, 10**6])
@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_what_is_no_pcm_is_refused_before_it_is_heard(
    tmp_path: Path, name: str, message: int
) -> None:
    make, says = FOREIGN[name]
    found, _, errors = read(*cut(make(tmp_path), message))
    assert len(errors) == 1 and "\n" not in errors[0]
    assert re.search(says, errors[0])
    assert not len(found)


@pytest.mark.parametrize("name", ["big-endian", "float32", "noise", "ogg", "base64"])
def test_what_turns_foreign_later_is_refused_then(tmp_path: Path, name: str) -> None:
    data = FOREIGN[name][0](tmp_path)
    found, _, errors = read(*cut(VOICE.astype("<i2").tobytes(), 960), *cut(data, 960))
    assert len(errors) == 1
    assert np.array_equal(found[: len(VOICE)], VOICE) and len(found) - len(VOICE) <= 960


@pytest.mark.parametrize("gain", [0.0001, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 48_000])
@pytest.mark.parametrize("kind", ["voice", "tone", "square", "hiss", "steps of 256", "constant"])
def test_no_sound_is_taken_for_something_else(kind: str, rate_hz: int, gain: float) -> None:
    rng, time = np.random.default_rng(3), np.arange(rate_hz) / rate_hz
    sound = {
        "voice": voiced(1.0, rate_hz).astype(float),
        "tone": 20_000 * np.sin(2 * np.pi * 0.37 * rate_hz * time),
        "square": 20_000 * np.sign(np.sin(2 * np.pi * 150 * time)),
        "hiss": rng.normal(0, 900, rate_hz),
        "steps of 256": voiced(1.0, rate_hz) // 256 * 256.0,
        "constant": np.full(rate_hz, 9000.0),
    }[kind]
    if kind == "hiss":
        gain = min(gain, 1.0)
    samples = np.clip(sound * gain, -32768, 32767).astype(np.int16)
    found, _, errors = read(*cut(samples.astype("<i2").tobytes(), 1920), rate_hz=rate_hz)
    assert not errors and np.array_equal(found, samples)


@pytest.mark.parametrize("lufs", [-18.0, None])
def test_a_limiter_stands_behind_it_all(lufs: float | None) -> None:
    session = Session("s", FakeTracker, EngineConfig(loudness_lufs=lufs))
    session.push_speech(
        np.random.default_rng(0).integers(-32768, 32768, 24_000).astype(np.int16), RATE_HZ, 0.0
    )
    session.flush_speech()
    assert np.abs(session.read_audio(96_000).samples.astype(int)).max() < 0.9 * 32768


# --- through the socket ---


@pytest.fixture
async def address(server: Running) -> AsyncIterator[str]:
    async with calling(server.url, name="studio") as made:
        await until(lambda: bool(made.pictures), "a picture comes back")
        yield f"{server.url.replace('http', 'ws')}/api/sessions/studio/speech"


async def events(socket: Any, last: str) -> list[dict[str, Any]]:
    """Up to the first of the type `last`."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] != last:
        found.append(json.loads(await socket.recv()))
    return found


async def test_each_utterance_is_judged_anew(address: str, tmp_path: Path) -> None:
    async with websockets.connect(f"{address}?rate=24000") as socket:
        for data, seconds, errors in (
            (wav(), 0.5, 0),
            (encoded("mp3")(tmp_path), 0.0, 1),
            (VOICE.astype("<i2").tobytes(), 0.5, 0),
            (wav(rate_hz=48_000), 0.25, 0),
        ):
            for message in cut(data, 1024):
                await socket.send(message)
            await socket.send('{"type":"flush"}')
            told = await events(socket, "flushed")
            assert sum(event["type"] == "error" for event in told) == errors
            assert told[-1]["seconds"] == pytest.approx(seconds, abs=0.01)


async def test_channels_are_declared_in_the_address(address: str) -> None:
    both = np.column_stack([VOICE, VOICE]).astype("<i2").tobytes()
    async with websockets.connect(f"{address}?rate=24000&channels=2") as socket:
        await socket.send(both)
        await socket.send('{"type":"flush"}')
        assert (await events(socket, "flushed"))[-1]["seconds"] == 0.5


@pytest.mark.parametrize(
    "query",
    ["rate=24000&" + more for more in ("channels=9", "channels=two", "chanels=2", "live=yes")],
)
def test_what_an_address_may_not_say_is_refused(query: str) -> None:
    with pytest.raises(MediaError, match="chan|live"):
        read_query(dict(pair.split("=") for pair in query.split("&")))


async def test_what_is_refused_is_told_and_closed(address: str) -> None:
    async with websockets.connect(f"{address}?rate=24000&encoding=mulaw") as socket:
        assert "encoding" in json.loads(await socket.recv())["error"]
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()


async def test_sound_in_text_is_a_services_or_told_what_it_may_be(address: str) -> None:
    async with websockets.connect(f"{address}?rate=24000") as socket:
        await socket.send(json.dumps({"audio": base64.b64encode(wav()).decode()}))
        await socket.send('{"type":"flush"}')
        assert (await events(socket, "flushed"))[-1]["seconds"] == 0.5
        await socket.send(json.dumps({"sound": base64.b64encode(wav()).decode()}))
        assert "protocol is known" in (await events(socket, "error"))[-1]["error"]
        await socket.send(json.dumps({"type": "chunk", "data": "A" * 270_000}))
        assert "smaller pieces" in (await events(socket, "error"))[-1]["error"]


async def test_services_and_containers_are_spoken_and_their_words_shown(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation as OpenAI's and moshi's servers send it, at no declared rate."""
    shown: list[str] = []
    monkeypatch.setattr(EventBus, "subtitle", lambda bus, text, *more: shown.append(text))
    half = base64.b64encode(VOICE.astype("<i2").tobytes()).decode()
    async with websockets.connect(f"{address}?format=auto") as socket:
        for message in (
            {"type": "response.created"},
            {"type": "response.output_audio.delta", "delta": half},
            {"type": "response.output_audio_transcript.delta", "delta": "Good "},
            {"type": "response.output_audio_transcript.delta", "delta": "evening."},
            {"type": "response.output_audio.done"},
        ):
            await socket.send(json.dumps(message))
        assert (await events(socket, "flushed"))[-1]["seconds"] == 0.5
        await socket.send(json.dumps({"event": "media", "media": {"payload": "/" * 4000}}))
        await socket.send(json.dumps({"type": "error", "message": "no credit"}))
        told = await events(socket, "error")
        assert told[-1]["error"] == "the voice's source says: no credit"
    ogg = sound_file(VOICE, 24_000, "ogg")
    async with websockets.connect(f"{address}?format=moshi") as socket:
        await socket.send(b"\x00")
        for start in range(0, len(ogg), 500):
            await socket.send(b"\x01" + ogg[start : start + 500])
        await socket.send(b"\x02 hello there.")
        await socket.send('{"type":"flush"}')
        told = await events(socket, "flushed")
        assert 0.3 < told[-1]["seconds"] < 0.6 and not [e for e in told if e["type"] == "error"]
    assert shown == ["Good evening.", "hello there."]


async def test_messagepack_is_read(address: str) -> None:
    msgpack = pytest.importorskip("msgpack")
    async with websockets.connect(f"{address}?format=msgpack") as socket:
        await socket.send(msgpack.packb({"type": "Audio", "pcm": [0.1] * 2400}))
        await socket.send(b"\xc1")
        assert "no MessagePack" in (await events(socket, "error"))[-1]["error"]
        await socket.send('{"type":"flush"}')
        assert (await events(socket, "flushed"))[-1]["seconds"] == 0.1
