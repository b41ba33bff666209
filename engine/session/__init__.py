"""One conversation: its frames in order, its speech, its statistics."""
