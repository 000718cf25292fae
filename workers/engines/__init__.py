"""What an executor runs its jobs on."""
