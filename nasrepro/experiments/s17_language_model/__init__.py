"""S17's language model: its random and ranked searches (sections 3.2 and 4.1)."""
