"""Worlds: spaces small enough to be trained whole, so that every search in them is replayed exactly, in seconds."""
