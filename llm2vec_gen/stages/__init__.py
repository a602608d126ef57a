"""Where the rows of complete and embed are made: in this process, a share of them, or spread over a cluster."""
