"""Where messages go: a server, a folder, the screen."""
