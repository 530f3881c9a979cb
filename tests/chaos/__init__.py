"""Break everything at random, from a seed, and compare the outbox with the messages that the mail server got."""
