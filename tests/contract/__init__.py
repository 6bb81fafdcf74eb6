"""The proxy against a scripted CLI."""
