"""The command ``countermand``: the composition root. It alone reads the configuration, and imports late."""

from workers.cli.command import build_app, main

__all__ = ["build_app", "main"]
