"""Where queries come from: one file per source, all with the contract and the row cleaning of base.py."""
