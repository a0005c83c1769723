"""The files of runs: recipes, weights, out-of-fold predictions and adopted rules."""
