"""How each engine is asked what runs, told to stop, and looked at until it is gone."""
