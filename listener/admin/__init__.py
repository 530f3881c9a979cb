"""Commands and the page change or read the outbox through these modules."""
