"""The jobs of a sweep: their status files, and the metric that a search optimises."""
