"""The folders that Hydra searches for yamls, and that a name stands for one file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from llm2vec_gen.conf_folders import CONF, own_folder
from llm2vec_gen.errors import InputError


def search_folders() -> list[Path]:
    """Return the folders of yamls on Hydra's search path: of the running command, or those that `compose` has."""
    if not GlobalHydra.instance().is_initialized():
        return [folder for folder in (CONF, own_folder()) if folder is not None]
    entries = GlobalHydra.instance().config_loader().get_search_path().get_path()
    paths = [entry.path.removeprefix("file://") for entry in entries]
    return [Path(path) for path in paths if "://" not in path]


def check_choices(choices: dict[str, Any]) -> None:
    """Raise InputError where a chosen name stands for different files of the search path: Hydra takes the first."""
    folders = search_folders()
    for group, choice in choices.items():
        for name in choice if isinstance(choice, list) else [choice]:
            files = [file for folder in folders if (file := folder / group / f"{name}.yaml").is_file()]
            if len({file.read_bytes() for file in files}) > 1:
                raise InputError(
                    f"{group}={name} stands for {' and for '.join(map(str, files))}; give yours another name"
                )
