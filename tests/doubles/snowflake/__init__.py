"""A Snowflake account in one process: its wire protocol for the real connector, queries that really run, on DuckDB.

``python -m tests.doubles.snowflake --port 0`` starts it and prints its address; it misbehaves as it is told to at
``/_double/faults`` and tells the truth about itself at ``/_double/state``. What nobody could verify about the real
Snowflake is marked "unverified" where it is decided.
"""
