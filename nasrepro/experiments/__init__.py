"""One folder for each experiment."""
