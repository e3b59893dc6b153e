"""Scorers and policies: each answers, in seconds, what choosing a replica would cost."""
