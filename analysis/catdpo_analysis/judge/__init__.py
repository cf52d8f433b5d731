"""Judges of answers: whether an answer to a harmful prompt is unsafe, whether a safe prompt was refused."""
