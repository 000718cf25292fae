"""A Snowflake account on this machine: its wire protocol for the real connector, queries that really run, on DuckDB.

``python -m tests.doubles.snowflake --port 0`` starts it and prints its address. It has one warehouse, ``COMPUTE_WH``,
and five users, whose passwords are their names in small letters:

* ``EXECUTOR`` and ``DBT`` run queries, each in a role of its own;
* ``CANCELLER`` has OPERATE and MONITOR on the warehouse: it may stop and see what runs there;
* ``STRANGER`` may use the warehouse, and neither stop nor see what others run;
* ``ADMIN`` is ACCOUNTADMIN, and changes all of this by SQL (:mod:`.administration`).

It misbehaves as it is told to at ``/_double/faults`` (:mod:`.faults` says how), and tells the truth about itself at
``/_double/state``. What nobody could verify about the real Snowflake is marked "unverified" where it is decided. What
it does not have: SHOW, stages, stored procedures, RESULT_SCAN, CLONE, secondary roles, privileges on data.
"""
