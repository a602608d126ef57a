"""A native folder that sentence-transformers opens as well: three small files more, written as data.

The class that they name is in integrations/sentence_transformers.py, which imports that library; this file does
not. They name it through a file of four lines in the folder, as that is the only place from which a machine
without our package gets a message with what to install. Reading needs nothing of its own: the folder is a native one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm2vec_gen.checkpoints import native
from llm2vec_gen.checkpoints import prompts as names
from llm2vec_gen.checkpoints.base import Checkpoint

MODULE = "generative_embedding.GenerativeEmbedding"
MODULES, CONFIG, DOOR = "modules.json", "config_sentence_transformers.json", "generative_embedding.py"
_DOOR = """# sentence-transformers imports this model's class from here; the code is in the installed package.
try:
    from llm2vec_gen.integrations.sentence_transformers import GenerativeEmbedding  # noqa: F401
except ImportError as error:
    raise ImportError(
        "this model needs the package llm2vec-gen-lightning (pip install llm2vec-gen-lightning). The package "
        "llm2vec-gen goes by the same import name and does not serve: uninstall it first. What failed: " + str(error)
    ) from error
"""

missing = native.missing
read = native.read


def write(path: Path, checkpoint: Checkpoint, prompts: Mapping[str, str] | None = None) -> None:
    """Write the native files, the list of modules (one: the model) and the prompts by name (default: its own)."""
    own = names.prompts(names.instructions_of(checkpoint.settings)) if prompts is None else prompts
    modules = [{"idx": 0, "name": "0", "path": "", "type": MODULE}]
    config: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "prompts": names.joinable(own),
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    extra = {MODULES: modules, CONFIG: config}
    files = {name: json.dumps(value, indent=2).encode() for name, value in extra.items()}
    native.write(path, checkpoint, {**files, DOOR: _DOOR.encode()})
