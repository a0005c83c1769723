"""Comparisons of runs, score forecasts and the HTML report."""
