"""Parameters that nothing can move."""
