"""A message of a rule, for eyes only."""
