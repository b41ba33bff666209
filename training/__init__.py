"""Clips -> shards -> checkpoint -> figures."""
