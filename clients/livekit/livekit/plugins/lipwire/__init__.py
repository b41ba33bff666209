"""A LiveKit Agents avatar on a lipwire server."""

from livekit.agents import Plugin

from .avatar import AvatarSession
from .generator import LipwireGenerator
from .log import __version__, logger

__all__ = ["AvatarSession", "LipwireGenerator", "__version__"]


class LipwirePlugin(Plugin):
    """What LiveKit lists."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__ or __name__, logger)


Plugin.register_plugin(LipwirePlugin())
