"""Messages of services that speak, as their documents show them, and containers on a pipe."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from calls import loudness, sound_file, strongest_hz, tone

from lipwire.engine import MediaError
from lipwire.engine.types import I16
from lipwire.server.call.container_reader import AutoReader
from lipwire.server.call.dialects import Said, read

PCM = tone(0.1, 440, 24_000).astype("<i2").tobytes()
B64 = base64.b64encode(PCM).decode()
QUIET = Said()

# Service, a message of it, and what it says.
SAMPLES: list[tuple[str, Any, Said]] = [
    ("ours", {"type": "flush"}, Said(act="flush")),
    ("ours", {"type": "interrupt"}, Said(act="interrupt")),
    (
        "OpenAI Realtime",
        {
            "type": "response.output_audio.delta",
            "event_id": "event_4950",
            "response_id": "resp_1",
            "item_id": "msg_8",
            "output_index": 0,
            "content_index": 0,
            "delta": B64,
        },
        Said((PCM,), 24_000),
    ),
    ("OpenAI Realtime", {"type": "response.output_audio.done"}, Said(act="flush")),
    (
        "OpenAI Realtime",
        {"type": "response.output_audio_transcript.delta", "item_id": "msg_8", "delta": "Hello, "},
        Said(text="Hello, "),
    ),
    ("OpenAI Realtime", {"type": "session.created", "session": {}}, QUIET),
    (
        "OpenAI Realtime",
        {"type": "response.done", "response": {"status": "cancelled"}},
        Said(act="interrupt"),
    ),
    ("OpenAI Realtime", {"type": "response.done", "response": {"status": "completed"}}, QUIET),
    (
        "OpenAI Realtime",
        {"type": "error", "error": {"type": "invalid_request_error", "message": "Bad voice."}},
        Said(error="Bad voice."),
    ),
    ("OpenAI beta", {"type": "response.audio.delta", "delta": B64}, Said((PCM,), 24_000)),
    ("OpenAI beta", {"type": "response.audio.done"}, Said(act="flush")),
    (
        "Gemini Live",
        {
            "serverContent": {
                "modelTurn": {
                    "parts": [
                        {"text": "thinking"},
                        {"inlineData": {"mimeType": "audio/pcm;rate=16000", "data": B64}},
                    ]
                }
            }
        },
        Said((PCM,), 16_000),
    ),
    (
        "Gemini Live",
        {"serverContent": {"outputTranscription": {"text": "Guten Tag"}}},
        Said(text="Guten Tag"),
    ),
    ("Gemini Live", {"serverContent": {"interrupted": True}}, Said(act="interrupt")),
    ("Gemini Live", {"serverContent": {"turnComplete": True}}, Said(act="flush")),
    ("Gemini Live", {"serverContent": {"generationComplete": True}}, QUIET),
    ("Gemini Live", {"setupComplete": {}}, QUIET),
    ("DeepL Voice", {"target_media_chunk": {"data": [B64, B64]}}, Said((PCM, PCM))),
    ("DeepL Voice", {"target_media_chunk": {"data": PCM}}, Said((PCM,))),  # in MessagePack
    (
        "DeepL Voice",
        {
            "target_transcript_update": {
                "language": "de",
                "tentative": [{"text": "Wie"}],
                "concluded": [{"text": "Guten Tag.", "start_time": 0, "end_time": 900}],
            }
        },
        Said(text="Guten Tag."),
    ),
    ("DeepL Voice", {"end_of_target_media": {"language": "de"}}, Said(act="flush")),
    (
        "DeepL Voice",
        {"error": {"error_code": 400, "reason_code": 4000403, "error_message": "Not supported"}},
        Said(error="Not supported"),
    ),
    (
        "ElevenLabs",
        {
            "audio": B64,
            "isFinal": False,
            "normalizedAlignment": None,
            "alignment": {"chars": ["H", "i"], "charStartTimesMs": [0, 3]},
        },
        Said((PCM,), text="Hi"),
    ),
    ("ElevenLabs", {"audio": None, "isFinal": True}, Said(act="flush")),
    (
        "Cartesia",
        {"type": "chunk", "data": B64, "done": False, "status_code": 206, "context_id": "50dc"},
        Said((PCM,)),
    ),
    (
        "Cartesia",
        {"type": "timestamps", "word_timestamps": {"words": ["Hello", "world"], "start": [0, 0.5]}},
        Said(text="Hello world "),
    ),
    ("Cartesia", {"type": "done", "done": True}, Said(act="flush")),
    ("Cartesia", {"type": "error", "message": "No such model."}, Said(error="No such model.")),
    (
        "Twilio",
        {
            "event": "media",
            "sequenceNumber": "3",
            "streamSid": "MZ1",
            "media": {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": B64},
        },
        Said((PCM,), 8000, mulaw=True),
    ),
    ("Twilio", {"event": "clear", "streamSid": "MZ1"}, Said(act="interrupt")),
    ("Twilio", {"event": "start", "start": {"mediaFormat": {"encoding": "audio/x-mulaw"}}}, QUIET),
    (
        "Kyutai TTS",
        {"type": "Audio", "pcm": [0.0, 0.5, -1.0]},
        Said(rate_hz=24_000, floats=(0.0, 0.5, -1.0)),
    ),
    ("Kyutai TTS", {"type": "Text", "text": "Bonjour", "start_s": 0.1}, Said(text="Bonjour ")),
    ("Kyutai TTS", {"type": "Ready"}, QUIET),
]


@pytest.mark.parametrize(
    "sample", SAMPLES, ids=[f"{who}-{n}" for n, (who, _, _) in enumerate(SAMPLES)]
)
def test_each_services_messages_are_understood(sample: tuple[str, Any, Said]) -> None:
    _, message, said = sample
    assert read(message) == said


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"type": "fly"}, "text must be"),
        ([], "text must be"),
        (None, "text must be"),
        ("flush", "text must be"),
        ({"type": ["flush"]}, "text must be"),
        ({"type": "chunk", "data": "no base64!"}, "no base64"),
        ({"type": "chunk", "data": 7}, "no base64"),
        ({"type": "chunk", "data": [[1], "AA"]}, "no base64"),
        (
            {
                "serverContent": {
                    "modelTurn": {
                        "parts": [
                            {"inlineData": {"mimeType": "audio/pcm;rate=999999", "data": B64}}
                        ]
                    }
                }
            },
            "outside",
        ),
    ],
)
def test_what_nobody_sends_is_refused_in_one_line(message: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason) as caught:
        read(json.loads(json.dumps(message)))
    assert "\n" not in str(caught.value)


def heard(pieces: list[tuple[I16, int]]) -> tuple[I16, int]:
    return np.concatenate([samples for samples, _ in pieces]), pieces[-1][1]


@pytest.mark.parametrize(
    ("kind", "rate_hz"),
    [
        ("ogg", 48_000),
        ("webm", 48_000),
        ("flac", 24_000),
        ("mp3", 24_000),
        ("wav", 16_000),
        ("adts", 24_000),
        ("pcm", 24_000),
    ],
)
@pytest.mark.parametrize("cut", [61, 700, 1 << 20])
def test_containers_are_decoded_as_they_come(kind: str, rate_hz: int, cut: int) -> None:
    raw = tone(6.0, 440, rate_hz)  # FFmpeg wants 6 kB of MP3 before it begins
    data = raw.astype("<i2").tobytes() if kind == "pcm" else sound_file(raw, rate_hz, kind)
    reader, early, pieces = AutoReader(24_000), 0, []
    for start in range(0, len(data), cut):
        pieces += reader.feed(data[start : start + cut])
        if start + cut <= len(data) * 0.6 and pieces:
            early = len(heard(pieces)[0])
    pieces += reader.end() + reader.close()
    samples, rate = heard(pieces)
    assert rate == rate_hz and abs(len(samples) / rate - 6.0) < 0.1
    assert abs(strongest_hz(samples, rate) - 440) < 10 and loudness(samples) > 2000
    if cut == 700 and kind != "flac":  # tones press into few bytes there
        assert early > 0.2 * rate_hz, "nothing was heard before the end"


def test_a_stream_goes_on_after_a_flush_and_another_may_follow() -> None:
    one, two = sound_file(tone(1.0, 440), kind="webm"), sound_file(tone(1.0, 880), kind="ogg")
    reader = AutoReader(24_000)
    first = reader.feed(one[: len(one) // 2])
    first += reader.end()
    reader.reset()
    first += reader.feed(one[len(one) // 2 :])
    second = reader.feed(two)  # ends the first, too
    assert 1.9 < len(heard(first + second + reader.close())[0]) / 48_000 < 2.1
    samples, _ = heard(second)
    assert abs(strongest_hz(samples[-24_000:]) - 880) < 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"OggS\x00\x02" + b"\x00" * 9000, "cannot be read"),
        (b"\x1aE\xdf\xa3" + b"\x01" * 9000, "cannot be read"),
        (b"fLaC\x00" + b"\x07" * 9000, "cannot be read|no sound"),
    ],
)
def test_a_container_that_is_broken_is_said_to_be(data: bytes, reason: str) -> None:
    reader = AutoReader(24_000)
    with pytest.raises(MediaError, match=reason) as caught:
        for _ in range(600):
            reader.feed(data)
            data = data[-9000:]
    assert "\n" not in str(caught.value)
    reader.reset()
    assert reader.feed(PCM), "and what comes next is heard"
