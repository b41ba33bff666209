"""Models that ship with lipwire."""
