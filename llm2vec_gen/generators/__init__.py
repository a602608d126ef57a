"""Who writes completions: one file per way, all with the contract of base.py."""
