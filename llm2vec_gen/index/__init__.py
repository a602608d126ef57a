"""A corpus as vectors and soft prompts in an embedded database (LanceDB): build, add, search, explain.

    <folder>/
        index.json        what it is: format, encoder and its fingerprint, instructions, dimensions, metadata columns
        documents.lance/  the table: id, text, source, vector, soft prompts, metadata
        codebooks.safetensors   with product-quantised soft prompts

Rows are committed in one piece, a batch at a time: a build that was killed continues with the ids that are missing.
"""
