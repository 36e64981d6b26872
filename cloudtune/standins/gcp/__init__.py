"""A stand-in for the parts of Google Cloud that cloudtune uses; the real client libraries talk to it over real sockets."""
