"""Unit tests leave nothing behind either."""

from tests.leaks import temporary_folder

__all__ = ["temporary_folder"]
