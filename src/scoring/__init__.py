"""Metrics, intervals, thresholds, calibration and blending; arrays in, numbers out."""
