"""The numbers of an evaluation: predictions, scores, refits, accuracy, and the tests that compare them."""
