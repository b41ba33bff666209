"""Files in, a file out."""
