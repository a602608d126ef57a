"""The wheel, built from this checkout and installed into an environment of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from tests.packaging.core_only import core_distributions

ROOT = Path(__file__).parents[2]


class Environment:
    """A virtual environment with the wheel. It sees the packages of this environment, but not this checkout.

    core: it sees only those that `pip install` of the wheel without extras would bring.
    """

    def __init__(self, folder: Path, core: bool = False):
        self.folder = folder
        wheel = build_wheel(folder / "dist")
        run([sys.executable, "-m", "venv", "--without-pip", folder / "env"])
        self.bin = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-deps", "--no-index"]
        run([*pip, wheel])
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(run([self.python, "-c", code]).stdout.strip())
        if core:
            self._link_core()
        else:
            shared = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
            (self.site / "shared.pth").write_text("\n".join(shared))  # a path alone: its own .pth files are not read

    def _link_core(self) -> None:
        """Link the files of the core's packages: to copy torch takes a gigabyte."""
        for name in core_distributions():
            try:
                distribution = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:  # needed on another platform alone
                continue
            for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(distribution.locate_file(top))

    def command(self, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the installed `llm2vec-gen`."""
        return run([self.bin / "llm2vec-gen", *arguments], cwd=cwd, check=False, **environment)


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into a folder; with the installed build backend, else a downloaded one."""
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", folder, ROOT])
    return next(folder.glob("*.whl"))


def run(command: list, cwd: Path | None = None, check: bool = True, **environment: str):
    """Run a command without the variables that lead Python to this checkout."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {key: value for key, value in os.environ.items() if key not in hidden} | environment
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=env, timeout=900)
    assert not check or done.returncode == 0, done.stderr
    return done
