"""The append-only record of what was launched: SQLite, one file a user."""
