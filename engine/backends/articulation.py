"""The model's voice branch by itself: what is heard -> the articulation that units are chosen by.

It is small, and its result is wanted before a job is made, so it runs on the CPU in the thread
that begins a frame, whatever device paints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lipwire.engine.backends.ort_session import choose_device, one_line, open_session
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.types import F32

VOICE = "voice.onnx"


class Articulation:
    """A bundle's `voice.onnx`; may be called from any thread.

    Args:
        bundle: a model whose manifest says what its codes mean.

    Raises:
        BackendError: the runtime refuses the graph.
    """

    def __init__(self, bundle: Bundle) -> None:
        device = choose_device(bundle.manifest, "cpu")
        self._session = open_session(bundle, VOICE, device, 1, 1)
        self._takes_scale = len(self._session.get_inputs()) > 1

    def __call__(self, mels: Sequence[F32], scale: F32 | None) -> F32:
        """The codes of each window of one person's voice, f32[K, codes], in spreads.

        Args:
            mels: f32[80, C] each, in ±4.
            scale: f32[codes], how many times as far as a typical speaker's this mouth goes.

        Raises:
            BackendError: the runtime failed.
        """
        feeds = {"mel": np.stack(mels)}
        if self._takes_scale:
            codes = len(scale) if scale is not None else self._session.get_inputs()[1].shape[1]
            known = np.ones(codes, np.float32) if scale is None else scale
            feeds["reach"] = np.repeat(known[None], len(mels), axis=0)
        try:
            return np.asarray(self._session.run(["codes"], feeds)[0], np.float32)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed ({one_line(error)})") from error


def open_articulation(bundle: Bundle) -> Articulation | None:
    """The voice branch of a bundle that has one and says what its codes mean."""
    if VOICE not in bundle.manifest.files or bundle.manifest.job_spec.codes is None:
        return None
    return Articulation(bundle)
