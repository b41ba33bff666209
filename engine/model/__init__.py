"""Model bundles: what one holds, its noise schedule, where it is cached."""
