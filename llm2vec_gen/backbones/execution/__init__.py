"""How a frozen backbone is run: packed or padded batches, attention, decoding."""
