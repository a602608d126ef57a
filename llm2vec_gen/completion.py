"""Shell completion of `llm2vec-gen`: commands, options, and the groups and variants of conf/.

Answers from the names of files alone, since a shell waits for them: nothing of torch or Hydra is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from llm2vec_gen.conf_folders import CONF, options, own_folder

BASH = r"""_llm2vec_gen() {
  local line="${COMP_LINE:0:COMP_POINT}"
  local word="${line##*[[:space:]]}" IFS=$'\n'
  COMPREPLY=($(llm2vec-gen --complete "$line" 2>/dev/null))
  # readline replaces only what stands behind the last "=" of the word
  [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
  [[ "${COMPREPLY[0]-}" == *= ]] && compopt -o nospace
}
complete -o default -F _llm2vec_gen llm2vec-gen
"""
ZSH = r"""_llm2vec_gen() {
  local -a found=("${(@f)$(llm2vec-gen --complete "${LBUFFER}" 2>/dev/null)}")
  [[ -n "${found[1]}" ]] && compadd -Q -S '' -- "${found[@]}" || _files
}
compdef _llm2vec_gen llm2vec-gen
"""
FISH = r"""complete -c llm2vec-gen -a '(llm2vec-gen --complete (commandline -cp) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def candidates(line: str, flags: Mapping[str, Sequence[str] | None]) -> list[str]:
    """Return the completions of the word that ends a command line.

    line: from the command's name to the cursor. flags: the options of each command, None for a step with overrides.
    """
    words = line.split()[1:] + ([""] if line[-1:].isspace() else [])
    if len(words) < 2:
        return _starting(words[0] if words else "", [name for name in flags if " " not in name])
    command, word = words[0], words[-1]
    if len(words) > 2 and " ".join(words[:2]) in flags:  # "index build"
        command = " ".join(words[:2])
    if command not in flags:
        return []
    own = flags[command]
    if own is not None:
        return _starting(word, own) if word.startswith("-") else []
    inner = [name.removeprefix(f"{command} ") for name in flags if name.startswith(f"{command} ")]
    return (_starting(word, inner) if len(words) == 2 else []) + _overrides(word)


def _starting(word: str, names: Sequence[str] | Mapping[str, object]) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _overrides(word: str) -> list[str]:
    """Complete a key to groups and keys of the root, and a group's value to its variants, also within a list."""
    folders = [folder for folder in (CONF, own_folder()) if folder is not None]
    key, equals, value = word.partition("=")
    if not equals:
        return [f"{name}=" for name in _starting(word, _keys(folders))]
    listed = value[: max(value.rfind("["), value.rfind(",")) + 1]  # [alignment, of loss=[alignment,reco
    return [f"{key}={listed}{name}" for name in _starting(value[len(listed) :], options(key, folders))]


def _keys(folders: Sequence[Path]) -> list[str]:
    """Return the groups, and the keys that stand in config.yaml itself."""
    groups = {place.name for folder in folders for place in folder.iterdir() if place.is_dir()} - {"hydra"}
    groups |= {f"hydra/{place.name}" for place in (CONF / "hydra").iterdir()}
    root = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    return sorted(groups | (root.keys() - {"defaults", "hydra"}))
