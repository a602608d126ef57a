"""A checkpoint from one format into another, bit by bit, read back and compared.

python experiments/convert.py from=<folder, hub id or GGUF file> to=<new folder> format=<one of checkpoints.FORMATS>
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("convert")
