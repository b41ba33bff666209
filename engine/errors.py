"""Every error lipwire raises on purpose.

LipwireError
├── ConfigError        a setting is out of range, or two contradict each other
├── MediaError         a picture, sound or container cannot be used
├── BankError          a file of a person's own mouths cannot be used
├── BundleError        a model directory is incomplete, altered or of an unknown format
├── CheckpointError    training's state cannot be written, read or fitted to a network
├── BackendError       a runtime refused or failed to run a graph
├── BacklogFull        more voice was pushed than may wait to be played
└── SessionClosed      the session has ended; nothing more can be pushed
"""

from __future__ import annotations


class LipwireError(Exception):
    """Base of the tree; its message is one line that names the cause."""


class ConfigError(LipwireError, ValueError):
    """A setting is out of range, or two contradict each other."""


class MediaError(LipwireError, ValueError):
    """A picture, a sound or a container cannot be used; the message says why."""


class BankError(LipwireError, ValueError):
    """A file of a person's own mouths cannot be used, or there are too few to make one."""


class BundleError(LipwireError):
    """A model directory is incomplete, altered, or of a format we do not know."""


class CheckpointError(LipwireError):
    """A checkpoint cannot be written or read, or fits another network; the old one is untouched."""


class BackendError(LipwireError, RuntimeError):
    """A runtime refused to load a graph or failed while running it."""


class BacklogFull(LipwireError, RuntimeError):
    """More voice was pushed than may wait to be played; hold it back until some has played."""


class SessionClosed(LipwireError, RuntimeError):
    """The session has ended; what it had produced can still be popped."""
