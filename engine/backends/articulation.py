"""The model's voice branch by itself: what is heard -> the articulation that units are chosen by.

It is small, and its result is wanted before a job is made, so it runs on the CPU in the thread
that begins a frame, whatever device paints.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from lipwire.engine.backends.ort_session import choose_device, one_line, open_session
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.types import F32

VOICE = "voice.onnx"
REMEMBERED = 64  # windows, 2 MB: those that some sessions look ahead at


class Articulation:
    """A bundle's `voice.onnx`; may be called from any thread.

    Raises:
        BackendError: the runtime refuses the graph.
    """

    def __init__(self, bundle: Bundle) -> None:
        device = choose_device(bundle.manifest, "cpu")
        self._session = open_session(bundle, VOICE, device, 1, 1)
        inputs = self._session.get_inputs()
        self._takes_scale = len(inputs) > 1
        # A window that was looked ahead at is heard again as the present one.
        self._heard: OrderedDict[bytes, F32] = OrderedDict()
        self._lock = threading.Lock()
        # What a mouth that never moves is said to do: codes are this and the scale's multiple.
        self._still: F32 | None = None
        if self._takes_scale:
            none = np.zeros((1, inputs[1].shape[1]), np.float32)
            self._still = self._run(np.zeros((1, *inputs[0].shape[1:]), np.float32), none)[0]

    def __call__(self, mels: Sequence[F32], scale: F32 | None) -> F32:
        """The codes of each window of one person's voice, f32[K, codes], in spreads.

        Args:
            mels: f32[80, C] each, in ±4.
            scale: f32[codes], how many times as far as a typical speaker's this mouth goes.

        Raises:
            BackendError: the runtime failed.
        """
        typical = np.stack([self._typical(mel) for mel in mels])
        if scale is None or self._still is None:
            return typical
        return np.asarray((typical - self._still) * scale + self._still, np.float32)

    def _typical(self, mel: F32) -> F32:
        """What a typical speaker's mouth does, f32[codes]."""
        key = mel.tobytes()
        with self._lock:
            if (known := self._heard.pop(key, None)) is not None:
                self._heard[key] = known
                return known
        whole = None if self._still is None else np.ones((1, len(self._still)), np.float32)
        codes: F32 = self._run(mel[None], whole)[0]
        with self._lock:
            self._heard[key] = codes
            if len(self._heard) > REMEMBERED:
                self._heard.popitem(last=False)
        return codes

    def _run(self, mels: F32, scale: F32 | None) -> F32:
        feeds = {"mel": np.ascontiguousarray(mels)}
        if scale is not None:
            feeds["reach"] = scale
        try:
            return np.asarray(self._session.run(["codes"], feeds)[0], np.float32)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed ({one_line(error)})") from error


def open_articulation(bundle: Bundle) -> Articulation | None:
    """The voice branch of a bundle that has one and says what its codes mean."""
    if VOICE not in bundle.manifest.files or bundle.manifest.job_spec.codes is None:
        return None
    return Articulation(bundle)
