"""Checks images and labels before training, and finds anomalies and label errors."""
