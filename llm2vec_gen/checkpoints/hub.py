"""Checkpoints on the Hugging Face hub: fetch one, push one. Tokens go to the client and nowhere else."""

from __future__ import annotations

from pathlib import Path

from llm2vec_gen.errors import InputError

# What the formats read; optimizer states, pickled arguments and complete decoders are not downloaded.
PATTERNS = (
    "*.json",
    "*.jinja",
    "README.md",
    "*merges.txt",  # of subfolders too
    "run_config.yml",
    "model.safetensors",
    "head.safetensors",
    "reconstruction_mlp",
    "alignment_mlp",
    "encoder/adapter_model.safetensors",
    "llm2vec_gen/model.safetensors",
)


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """Return the folder of the downloaded files. HF_HUB_OFFLINE and the hub's own cache and token settings apply."""
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(PATTERNS))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of the two
        raise InputError(
            f"{repo_id!r} (revision {revision or 'main'}) could not be fetched: {type(error).__name__}. Expected a "
            "local folder or a hub id that this machine may read; offline, only what was fetched before can be loaded"
        ) from None
    return Path(found)


def push(
    folder: str | Path,
    repo_id: str,
    revision: str | None = None,
    private: bool = True,
    message: str = "Upload checkpoint",
    token: str | None = None,
) -> str:
    """Upload a checkpoint folder; the repository is made (private by default) if it does not exist.

    Returns the commit's address. Only the checkpoint's own files go up, never what else lies in the folder.
    """
    import huggingface_hub

    client = huggingface_hub.HfApi()
    patterns = [*PATTERNS, "generative_embedding.py"]
    try:
        client.create_repo(repo_id, private=private, exist_ok=True, token=token)
        if revision is not None:
            client.create_branch(repo_id, branch=revision, exist_ok=True, token=token)
        commit = client.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            revision=revision,
            commit_message=message,
            allow_patterns=patterns,
            token=token,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{repo_id!r} could not be pushed: {type(error).__name__}. Log in with `hf auth login` using a token that "
            "may write there; offline mode must be off"
        ) from None
    return str(getattr(commit, "commit_url", commit))
