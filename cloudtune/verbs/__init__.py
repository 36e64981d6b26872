"""What users do, one file a verb: edges called in order."""
