"""What the papers report, what we measured, and how the two are set side by side."""
