"""What runs leave behind: recipes, weights, out-of-fold predictions and adopted rules."""
