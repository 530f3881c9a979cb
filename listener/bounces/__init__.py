"""Bounces and complaints: what a relay learns after it has accepted a message."""
