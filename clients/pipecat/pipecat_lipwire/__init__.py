"""A Pipecat video service: the user's camera speaks what the bot says."""

from pipecat_lipwire.service import LipwireVideoService

__version__ = "0.1.0"
__all__ = ["LipwireVideoService"]
