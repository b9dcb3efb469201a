"""What tracing depends on, and what it changes."""
