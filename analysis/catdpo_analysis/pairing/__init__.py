"""Preference pairs from judged answers."""
