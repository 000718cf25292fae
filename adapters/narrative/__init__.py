"""The Narrative plane's engines."""
