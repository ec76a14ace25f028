"""What a notebook or a script calls: rows in memory in, a fitted model with its page and answers out."""
