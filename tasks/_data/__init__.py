"""Images joined with their labels: storage's readers on one side, models' transforms on the other."""
