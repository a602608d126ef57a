"""Who hears about a job: what its verbs train, score and read, besides the files that every artifact keeps."""
