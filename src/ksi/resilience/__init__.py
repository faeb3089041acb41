"""How much, and how often: limits that rooms above share."""
