"""Infers a Competition from a downloaded folder."""
