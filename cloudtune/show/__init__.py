"""Values to terminal, HTML and JSON; decides nothing."""
