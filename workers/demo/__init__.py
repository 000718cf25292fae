"""``countermand demo``: jobs meet their fates, on real processes and real SQL."""
