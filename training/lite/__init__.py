"""Training of the lite model."""
