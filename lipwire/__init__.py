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

import lipwire.engine
from lipwire.engine import *  # noqa: F403
from lipwire.server import __version__

__all__ = ["__version__"]
__all__ += lipwire.engine.__all__
