"""The Snowflake plane: signing in, asking, stopping, and the outputs that jobs leave there."""
