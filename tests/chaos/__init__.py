"""Everything that can break, broken at random, from a seed; and then the outbox against what the mail server got."""
