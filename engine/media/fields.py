"""Interlaced pictures -> progressive ones: fields woven into one picture comb where it moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lipwire.engine.media.container import OnDamage


def progressive(frames: Iterable[Any], on_damage: OnDamage) -> Iterator[Any]:
    """The same av.VideoFrames, with those that are marked as interlaced deinterlaced.

    As many as before, at the same times (BBC's bwdif, once a frame).
    """
    graph: Any = None
    shape = None
    for frame in frames:
        now = frame.width, frame.height, frame.format.name
        if graph is not None and now != shape:
            yield from _drained(graph)
            graph = None
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            if shape is None:
                on_damage("video: is interlaced; the fields are put into whole pictures")
            graph, shape = _graph(frame), now
        graph.push(frame)
        yield from _ready(graph)
    if graph is not None:
        yield from _drained(graph)


def _graph(frame: Any) -> Any:
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    weave = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    source.link_to(weave)
    weave.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _ready(graph: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


def _drained(graph: Any) -> Iterator[Any]:
    graph.push(None)
    yield from _ready(graph)
