"""Preferences between answers: judges, matches, win rates and rankings."""
