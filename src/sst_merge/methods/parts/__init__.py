"""Pieces that several published methods share; none of them is a method."""
