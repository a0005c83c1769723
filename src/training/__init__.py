"""Trains one fold: targets, batches, losses, the loop and predictions."""
