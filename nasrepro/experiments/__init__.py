"""The experiments of both papers, one folder each."""
