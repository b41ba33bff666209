"""lipwire's real-time core: a live face and a new voice in, the same face speaking it out.

    import engine

    with engine.open_engine() as lipwire:
        session = lipwire.session()
        session.push_speech(samples, 16_000, now)    # int16[N], as fast as it comes
        session.push_video(frame, now)               # engine.VideoFrame
        out = session.pop_video(now)                 # engine.OutputFrame | None
        sound = session.pop_audio(now)               # engine.AudioChunk | None

Importing it loads neither torch nor mediapipe nor a runtime; opening an engine does.
"""

import os

# ONNX Runtime's wheels report to their maker's servers from the moment they are loaded, unless told
# not to before: nothing leaves this machine that its owner has not asked for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from engine.bundle import Bundle, Manifest, open_bundle
from engine.config import EngineConfig
from engine.errors import (
    BackendError,
    BacklogFull,
    BundleError,
    ConfigError,
    LipwireError,
    MediaError,
    SessionClosed,
)
from engine.opening import open_engine
from engine.session import Session
from engine.types import (
    PLAYOUT_RATE_HZ,
    SPEECH_RATE_HZ,
    AudioChunk,
    Face,
    LipJob,
    Outcome,
    OutputFrame,
    SessionStats,
    VideoFrame,
)
from engine.workers import Engine

__all__ = [
    "PLAYOUT_RATE_HZ",
    "SPEECH_RATE_HZ",
    "AudioChunk",
    "BackendError",
    "BacklogFull",
    "Bundle",
    "BundleError",
    "ConfigError",
    "Engine",
    "EngineConfig",
    "Face",
    "LipJob",
    "LipwireError",
    "Manifest",
    "MediaError",
    "Outcome",
    "OutputFrame",
    "Session",
    "SessionClosed",
    "SessionStats",
    "VideoFrame",
    "open_bundle",
    "open_engine",
]
