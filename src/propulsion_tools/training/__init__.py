"""Train, measure, evaluate and predict: one run from words to a record."""
