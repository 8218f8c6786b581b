"""Pictures and HTML: views of results, made without a display and without a clock, so that they repeat."""
