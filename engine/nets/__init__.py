"""Network architectures; importing any module here loads torch."""
