"""Checkpoints -> bundles, checked against torch."""
