"""From probabilities to an answer: temperature, thresholds, costs, abstention."""
