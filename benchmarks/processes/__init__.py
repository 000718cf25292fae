"""What is measured as a process of its own, started by name: ``python -m benchmarks.processes.…``."""
