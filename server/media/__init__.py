"""What is written into media: watermark, provenance, subtitles, recordings."""
