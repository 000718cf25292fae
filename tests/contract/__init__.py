"""What every adapter and every double must keep to."""
