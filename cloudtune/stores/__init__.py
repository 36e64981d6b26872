"""Where artifacts lie: put, list, fetch."""
