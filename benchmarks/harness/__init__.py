"""What every benchmark shares: the registry, records, comparison."""
