"""Tests of the rules by which the upstream of the tests refuses requests."""
