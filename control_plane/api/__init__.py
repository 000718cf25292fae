"""The HTTP API, on Litestar: one file per resource; what they work on is :mod:`control_plane.api.desk`."""
