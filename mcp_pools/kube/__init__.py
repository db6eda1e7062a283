"""What the pool type `kubernetes` is made of: the API, a Job's manifest, what its state means."""
