"""lipwire: a live face and a new voice in, the same face speaking it out.

    import lipwire

    with lipwire.open_engine() as engine:
        session = engine.session()
        session.push_speech(samples, 16_000, now)    # int16[N], as fast as it comes
        session.push_video(frame, now)               # lipwire.VideoFrame
        out = session.pop_video(now)                 # lipwire.OutputFrame | None
        audio = session.pop_audio(now)               # lipwire.AudioChunk | None

Importing it loads neither torch nor a runtime; opening an engine does.
"""

from lipwire.engine import (
    PLAYOUT_RATE_HZ,
    SPEECH_RATE_HZ,
    AudioChunk,
    BackendError,
    BacklogFull,
    BankError,
    Bundle,
    BundleError,
    ConfigError,
    Consent,
    Engine,
    EngineConfig,
    EnrolledBank,
    Face,
    LipJob,
    LipwireError,
    Manifest,
    MediaError,
    Outcome,
    OutputFrame,
    Session,
    SessionClosed,
    SessionStats,
    VideoFrame,
    open_bundle,
    open_engine,
    read_bank,
    write_bank,
)
from lipwire.server import __version__

__all__ = [
    "__version__",
    "PLAYOUT_RATE_HZ",
    "SPEECH_RATE_HZ",
    "AudioChunk",
    "BackendError",
    "BacklogFull",
    "BankError",
    "Bundle",
    "BundleError",
    "ConfigError",
    "Consent",
    "Engine",
    "EngineConfig",
    "EnrolledBank",
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
    "read_bank",
    "write_bank",
]
