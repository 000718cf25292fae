"""What Countermand costs and how fast it is, beside a floor in plain SQL and beside its peers."""
