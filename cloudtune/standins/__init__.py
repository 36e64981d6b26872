"""Local stand-ins of the clouds, for rehearsals and tests."""
