"""python -m llm2vec_gen.cli is llm2vec-gen."""

from llm2vec_gen.cli.command import main

if __name__ == "__main__":
    main()
