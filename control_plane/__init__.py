"""The control plane: jobs, their lifecycle, and the store that owns both."""
