"""Everything that touches the network or a file of media."""

__version__ = "0.2.0"  # as pyproject.toml has it; a test compares the two
