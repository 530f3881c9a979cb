"""An SMTP client that is certain about the final dot."""
