"""What pgherald costs and what it carries, measured. See README.md."""
