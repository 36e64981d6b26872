"""Places that train: each speaks to one outside service, none to another."""
