"""The tests. A package, because a library that we install (smdebug-rulesconfig, of sagemaker) brings a top-level ``tests`` of its own."""
