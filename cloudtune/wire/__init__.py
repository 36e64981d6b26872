"""What providers and stores share of a cloud's SDK: logins, clients, object transfer. Knows no job and decides nothing."""
