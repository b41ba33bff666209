"""lipwire's real-time core; how it is used, `lipwire` says."""

import os

# ONNX Runtime's wheels report to their maker's servers from the moment they are loaded, unless told
# not to before: nothing leaves this machine that its owner has not asked for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import (
    BackendError,
    BacklogFull,
    BankError,
    BundleError,
    ConfigError,
    LipwireError,
    MediaError,
    SessionClosed,
)
from lipwire.engine.model.bundle import Bundle, Manifest, open_bundle
from lipwire.engine.runtime.engine import Engine
from lipwire.engine.runtime.open import open_engine
from lipwire.engine.session.session import Session
from lipwire.engine.types import (
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
from lipwire.engine.units.bank_file import read_bank, write_bank
from lipwire.engine.units.enrolled import Consent, EnrolledBank

__all__ = [
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
