"""The logger that LiveKit's own plugins also have."""

import logging

__version__ = "0.1.0"
logger = logging.getLogger("livekit.plugins.lipwire")
