"""What evaluates a cell: training tasks, and the outcome that all of them report."""
