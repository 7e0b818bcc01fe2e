"""S17's second experiment (section 4.2): a cell as the encoder of a translation model."""
