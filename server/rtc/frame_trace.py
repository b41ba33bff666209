"""Traces on av frames: a picture keeps its own through decoders, queues and threads."""

from __future__ import annotations

from typing import Any

from lipwire.engine.trace import UNTRACED, Trace


def hang(frame: Any, trace: Trace | None) -> None:
    """Give a frame a trace.

    In a box of its own: PyAV forgets an object with the first of several frames that hold it.
    """
    if trace is not None:
        frame.opaque = (trace,)


def trace_of(frame: Any) -> Trace:
    """A frame's trace; `UNTRACED` if it has none."""
    match getattr(frame, "opaque", None):
        case (Trace() as trace,):
            return trace
    return UNTRACED
