"""Amazon SageMaker: requests, limits and words, so far all pure; nothing here starts a job or imports an SDK."""
