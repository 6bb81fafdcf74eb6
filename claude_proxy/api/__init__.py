"""The dialects that clients speak: one file each; siblings never import one another."""
