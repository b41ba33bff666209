"""Harnesses for everything that a stranger's bytes reach; not part of the package."""
