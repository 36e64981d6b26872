"""The command: parse, call one verb, show."""
