"""The processes beside an engine: executors, cancellers, and the command that starts them."""
