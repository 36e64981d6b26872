"""Plan to bundle: text and bytes in memory; pure."""
