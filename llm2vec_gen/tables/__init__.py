"""Scores -> Markdown, LaTeX, HTML. Nothing here loads a model; a cell without a score stays empty."""
