"""What is known of a model from its config.json: shapes and counts."""
