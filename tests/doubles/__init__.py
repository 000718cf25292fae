"""Hand-written stand-ins, which pass the same contract suites as the real things."""
