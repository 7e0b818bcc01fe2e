"""S17's translation experiments: the agent's search, and the cells of Table 3."""
