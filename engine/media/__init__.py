"""Frames in and out of files and video frames' planes."""
