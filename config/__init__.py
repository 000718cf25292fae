"""Settings and logging: read once, by the composition root."""
