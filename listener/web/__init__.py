"""What a daemon shows over HTTP: health, metrics, and a page for people."""
