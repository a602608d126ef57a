"""Scores -> Markdown, LaTeX, HTML. Nothing here loads a model; a cell without a score is a hole and stays one."""
