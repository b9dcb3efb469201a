"""A training that is killed, again and again, and what must be the same in the end."""
