"""The configuration file, its sections and its rules."""
