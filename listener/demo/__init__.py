"""A real PostgreSQL and a mail catcher that come with ``pgherald[demo]``, and the story played on them."""
