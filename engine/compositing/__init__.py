"""From a generated crop back into the frame."""
