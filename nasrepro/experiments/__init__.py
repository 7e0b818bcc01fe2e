"""The experiments of both papers: a folder for each, with its sizes, figures and analysis."""
