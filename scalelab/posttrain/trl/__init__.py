"""Stages whose steps are made by TRL's trainers (extra `post`)."""
