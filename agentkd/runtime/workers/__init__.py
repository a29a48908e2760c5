"""Worker processes: their host here, their insides, and what they share."""
