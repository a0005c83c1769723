"""From probabilities to a checked file, and to Kaggle."""
