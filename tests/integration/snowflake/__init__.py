"""The double of a Snowflake account, by the real connector: what it says, and what its process really does."""
