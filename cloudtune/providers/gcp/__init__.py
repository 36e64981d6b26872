"""Google Vertex AI (Agent Platform) custom training as a place. Importing this package imports nothing of Google's."""
