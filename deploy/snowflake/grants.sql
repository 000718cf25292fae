-- The least that Countermand needs of a Snowflake account: two users that are no persons, each with a role of its own.
--
--   COUNTERMAND_EXECUTOR     runs jobs: uses a warehouse, writes into one database
--   COUNTERMAND_CANCELLER    sees and stops what runs on that warehouse: uses none, reads no data
--
-- Before you run it, replace
--   COMPUTE_WH                   by the warehouse that jobs run on; make it one of theirs, for the canceller may stop all
--                                that runs there
--   COUNTERMAND                  by the database for outputs, should that name be taken
--   <EXECUTOR_PUBLIC_KEY>,
--   <CANCELLER_PUBLIC_KEY>       by the users' public keys, without their first and last line:
--
--     openssl genrsa 2048 | openssl pkcs8 -topk8 -nocrypt -out canceller.p8 && chmod 600 canceller.p8
--     openssl rsa -in canceller.p8 -pubout | grep -v -- ----- | tr -d '\n'
--
-- It may be run again; docs/snowflake.md goes on from here.

USE ROLE ACCOUNTADMIN;

-- Roles and users. TYPE = SERVICE: they can sign in by a key, a token or a workload's identity, and by no password.

CREATE ROLE IF NOT EXISTS COUNTERMAND_EXECUTOR;
CREATE ROLE IF NOT EXISTS COUNTERMAND_CANCELLER;

CREATE USER IF NOT EXISTS COUNTERMAND_EXECUTOR
    TYPE = SERVICE
    DEFAULT_ROLE = COUNTERMAND_EXECUTOR
    DEFAULT_WAREHOUSE = COMPUTE_WH
    RSA_PUBLIC_KEY = '<EXECUTOR_PUBLIC_KEY>';

-- No default warehouse: whatever it asks then starts none, and costs no credits.
CREATE USER IF NOT EXISTS COUNTERMAND_CANCELLER
    TYPE = SERVICE
    DEFAULT_ROLE = COUNTERMAND_CANCELLER
    RSA_PUBLIC_KEY = '<CANCELLER_PUBLIC_KEY>';

-- Without its role a user cannot sign in: its default role is refused.
GRANT ROLE COUNTERMAND_EXECUTOR TO USER COUNTERMAND_EXECUTOR;
GRANT ROLE COUNTERMAND_CANCELLER TO USER COUNTERMAND_CANCELLER;

-- The warehouse. Without USAGE no job runs.
GRANT USAGE ON WAREHOUSE COMPUTE_WH TO ROLE COUNTERMAND_EXECUTOR;

-- Without OPERATE nothing is stopped: cancellations wait, and say not_permitted. It lets the canceller suspend and
-- resume the warehouse, too, which it never does.
GRANT OPERATE ON WAREHOUSE COMPUTE_WH TO ROLE COUNTERMAND_CANCELLER;

-- Without MONITOR the canceller may not be shown the executor's queries. Absence then proves nothing, and a cancellation
-- whose executor died before it wrote the query down waits.
GRANT MONITOR ON WAREHOUSE COMPUTE_WH TO ROLE COUNTERMAND_CANCELLER;

-- The database. The executor makes COUNTERMAND_OUTPUTS, COUNTERMAND_DATASETS and COUNTERMAND_SAMPLES in it when it first
-- needs them, and owns them; without CREATE SCHEMA no job can write.
CREATE DATABASE IF NOT EXISTS COUNTERMAND;
GRANT USAGE ON DATABASE COUNTERMAND TO ROLE COUNTERMAND_EXECUTOR;
GRANT CREATE SCHEMA ON DATABASE COUNTERMAND TO ROLE COUNTERMAND_EXECUTOR;

-- The canceller reads the history of queries in the database's INFORMATION_SCHEMA, and nothing else there. Without USAGE
-- it finds no query but those whose id was written down.
GRANT USAGE ON DATABASE COUNTERMAND TO ROLE COUNTERMAND_CANCELLER;

-- What jobs may read, and who may read what they publish, is yours to say. For example:
--
--   GRANT USAGE ON DATABASE RAW TO ROLE COUNTERMAND_EXECUTOR;
--   GRANT USAGE ON SCHEMA RAW.PUBLIC TO ROLE COUNTERMAND_EXECUTOR;
--   GRANT SELECT ON ALL TABLES IN SCHEMA RAW.PUBLIC TO ROLE COUNTERMAND_EXECUTOR;

-- Optional: let the canceller end the sessions of jobs (SYSTEM$ABORT_SESSION). A job of an executor that died is then
-- closed at once, and not only once its permit has run out. It costs much: whoever owns a user may give it another key,
-- and sign in as it. Whoever holds the canceller's key then reads all data that jobs may read. That ownership of the user
-- suffices is not documented by Snowflake, and was tried on a double only.
--
-- OPTIONAL: GRANT OWNERSHIP ON USER COUNTERMAND_EXECUTOR TO ROLE COUNTERMAND_CANCELLER;
