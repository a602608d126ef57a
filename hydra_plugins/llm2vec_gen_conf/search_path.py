"""The search path: the user's own ./conf stands behind the shipped one, in every group."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from llm2vec_gen.conf_folders import CONF, own_folder


class OwnConf(SearchPathPlugin):
    """Adds ./conf, for the commands of this package alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder; Hydra calls this for every application of the environment."""
        ours = any(entry.provider == "main" and entry.path.removeprefix("file://") == str(CONF)
                   for entry in search_path.get_path())  # fmt: skip
        own = own_folder()
        if ours and own is not None:
            search_path.append("own", f"file://{own}")
